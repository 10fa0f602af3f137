// Attention over pages, written over eight lanes: a lane is a query row. Included by kernels.inl,
// inside the namespace of an instruction set.

// Positions whose products with the query rows are kept in registers together.
constexpr int kGroup = Widest::kParts * Widest::kVectors;

// Products of all query rows with kGroup keys from `key` on, summed over dimensions; out is
// [kGroup][kAttentionRows].
template <class Element>
void multiply_keys(const AttentionTask& t, const Element* key, const float* query, float* out) {
  using L = Widest;
  const ptrdiff_t dim = t.head_dim;
  L::V acc[L::kVectors][kAttentionRows];
  for (auto& rows : acc)
    for (L::V& a : rows) a = L::all(0.0f);
  for (ptrdiff_t d = 0; d < dim; d += 8) {
    L::V k[L::kVectors];
    for (int v = 0; v < L::kVectors; ++v) k[v] = L::parts(key + v * L::kParts * dim + d, dim);
    for (int r = 0; r < kAttentionRows; ++r) {
      const L::V q = L::repeat(load(query + r * dim + d));
      for (int v = 0; v < L::kVectors; ++v) acc[v][r] = fma(k[v], q, acc[v][r]);
    }
  }
  for (int v = 0; v < L::kVectors; ++v)
    store(out + v * L::kParts * kAttentionRows, sums(acc[v]));
}

// What the query rows (lanes) see: positions [first, last). All see [common_first, common_last).
struct Sight {
  F8 first;
  F8 last;
  int common_first;
  int common_last;
};

// Masks the scores of positions from `start` + begin to `start` + end: -infinity where a row does
// not see.
void mask(const Sight& sight, int start, int begin, int end, float* scores) {
  const F8 minus_infinity = set1(-__builtin_inff());
  for (int j = begin; j < end; ++j) {
    const F8 position = set1(static_cast<float>(start + j));
    float* at = scores + j * kAttentionRows;
    const F8 before_last = select_less(position, sight.last, load(at), minus_infinity);
    store(at, select_less(position, sight.first, minus_infinity, before_last));
  }
}

// Scores of positions [begin, end) of the page that starts at position `start`; gives each row's
// highest. Pages lie far apart in memory: while one is read, the next one's keys and values, which
// begin at `next`, are asked for.
template <class Element>
F8 page_scores(const AttentionTask& t, const Element* keys, const Element* next,
               const float* query, const Sight& sight, int start, int begin, int end,
               float* scores) {
  static_assert(kPageTokens % kGroup == 0, "a group of positions ends within its page");
  constexpr int kAhead = 4;  // positions asked for at once
  const size_t ahead_bytes = 2 * sizeof(Element) * kAhead * static_cast<size_t>(t.head_dim);
  for (int j = begin / kGroup * kGroup; j < end; j += kGroup) {
    if (j % kAhead == 0)
      prefetch(reinterpret_cast<const uint8_t*>(next) + ahead_bytes * (j / kAhead), ahead_bytes);
    multiply_keys(t, keys + static_cast<ptrdiff_t>(j) * t.head_dim, query,
                  scores + j * kAttentionRows);
  }
  if (start + begin < sight.common_first || start + end > sight.common_last)
    mask(sight, start, begin, end, scores);
  F8 highest = set1(-__builtin_inff());
  for (int j = begin; j < end; ++j) highest = max(highest, load(scores + j * kAttentionRows));
  return highest;
}

// Scores of the positions [begin, end) become weights, exp(score - peak); their sums join `total`.
F8 page_weights(int begin, int end, F8 peak, F8 total, float* scores) {
  using L = Widest;
  const L::V peaks = L::repeat(peak);
  int j = begin;
  for (; j + L::kParts <= end; j += L::kParts) {
    const L::V w = exp<L>(sub(L::read(scores + j * kAttentionRows), peaks));
    store(scores + j * kAttentionRows, w);
    for (int part = 0; part < L::kParts; ++part) total = add(total, L::part(w, part));
  }
  for (; j < end; ++j) {
    const F8 w = exp<EightLanes>(sub(load(scores + j * kAttentionRows), peak));
    store(scores + j * kAttentionRows, w);
    total = add(total, w);
  }
  return total;
}

// sum_rows[r] = sum_rows[r] * decay[r] + sum over positions of weight[r] * V, for N vectors of
// dimensions.
template <class L, int N, class Element>
void value_columns(const AttentionTask& t, const Element* values, const float* weights,
                   const float* decay, int begin, int end, float* sum_rows) {
  constexpr int kWidth = 8 * L::kParts;
  typename L::V acc[kAttentionRows][N];
  for (int r = 0; r < kAttentionRows; ++r)
    for (int n = 0; n < N; ++n)
      acc[r][n] = mul(L::read(sum_rows + r * t.head_dim + kWidth * n), L::all(decay[r]));
  for (int j = begin; j < end; ++j) {
    typename L::V v[N];
    for (int n = 0; n < N; ++n)
      v[n] = L::read(values + static_cast<ptrdiff_t>(j) * t.head_dim + kWidth * n);
    for (int r = 0; r < kAttentionRows; ++r) {
      const typename L::V w = L::all(weights[j * kAttentionRows + r]);
      for (int n = 0; n < N; ++n) acc[r][n] = fma(w, v[n], acc[r][n]);
    }
  }
  for (int r = 0; r < kAttentionRows; ++r)
    for (int n = 0; n < N; ++n) store(sum_rows + r * t.head_dim + kWidth * n, acc[r][n]);
}

template <class Element>
void page_values(const AttentionTask& t, const Element* values, const float* weights,
                 const float* decay, int begin, int end, float* sum_rows) {
  constexpr int kStep = 8 * Widest::kParts * Widest::kVectors;
  int d = 0;
  for (; d + kStep <= t.head_dim; d += kStep)
    value_columns<Widest, Widest::kVectors>(t, values + d, weights, decay, begin, end,
                                            sum_rows + d);
  for (; d < t.head_dim; d += 8)
    value_columns<EightLanes, 1>(t, values + d, weights, decay, begin, end, sum_rows + d);
}

// Streaming softmax over whole pages (arXiv 1805.02867), starting from the sink.
template <class Element>
void attend(const AttentionTask& t) {
  float* query = t.scratch;
  float* sum_rows = query + kAttentionRows * t.head_dim;
  float* weights = sum_rows + kAttentionRows * t.head_dim;
  float first_of[kAttentionRows], last_of[kAttentionRows], sink_of[kAttentionRows];
  int lowest = t.first[0], common_first = lowest;
  int highest = t.last[0], common_last = highest;
  for (int r = 0; r < kAttentionRows; ++r) {
    const int from = r < t.rows ? r : 0;  // unused rows repeat the first
    for (int d = 0; d < t.head_dim; ++d) {
      query[r * t.head_dim + d] = t.query[from][d];
      sum_rows[r * t.head_dim + d] = 0.0f;
    }
    first_of[r] = static_cast<float>(t.first[from]);
    last_of[r] = static_cast<float>(t.last[from]);
    sink_of[r] = t.sink[from];
    lowest = t.first[from] < lowest ? t.first[from] : lowest;
    highest = t.last[from] > highest ? t.last[from] : highest;
    common_first = t.first[from] > common_first ? t.first[from] : common_first;
    common_last = t.last[from] < common_last ? t.last[from] : common_last;
  }
  const Sight sight = {load(first_of), load(last_of), common_first, common_last};
  F8 peak = load(sink_of);
  F8 total = set1(1.0f);
  const size_t value_offset = static_cast<size_t>(kPageTokens) * static_cast<size_t>(t.head_dim);
  for (int p = lowest / kPageTokens; p * kPageTokens < highest; ++p) {
    const int start = p * kPageTokens;
    const int begin = lowest > start ? lowest - start : 0;
    const int end = highest - start < kPageTokens ? highest - start : kPageTokens;
    const auto page = [&](int index) {
      return reinterpret_cast<const Element*>(t.pool +
                                              t.page_stride * static_cast<size_t>(t.pages[index]));
    };
    const Element* keys = page(p);
    const Element* next = page(end == highest - start ? p : p + 1);
    const F8 page_peak = page_scores(t, keys, next, query, sight, start, begin, end, weights);
    const F8 new_peak = max(peak, page_peak);
    const F8 decay = exp<EightLanes>(sub(peak, new_peak));
    total = page_weights(begin, end, new_peak, mul(total, decay), weights);
    peak = new_peak;
    float decay_of[kAttentionRows];
    store(decay_of, decay);
    page_values(t, keys + value_offset, weights, decay_of, begin, end, sum_rows);
  }
  float total_of[kAttentionRows];
  store(total_of, total);
  for (int r = 0; r < t.rows; ++r) {
    const F8 inverse = set1(1.0f / total_of[r]);
    for (int d = 0; d < t.head_dim; d += 8)
      store(t.out[r] + d, mul(load(sum_rows + r * t.head_dim + d), inverse));
  }
}

void attention(const AttentionTask& t) {
  if (t.half) {
    attend<uint16_t>(t);
  } else {
    attend<float>(t);
  }
}
