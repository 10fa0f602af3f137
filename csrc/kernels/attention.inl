// Attention over pages, written over eight lanes: a lane is a query row. Included by kernels.inl,
// inside the namespace of an instruction set.

struct HalfElements {
  using type = uint16_t;
  static F8 read(const type* p) { return load_f16(p); }
};
struct FloatElements {
  using type = float;
  static F8 read(const type* p) { return load(p); }
};

// Scores of 8 query rows (lanes) at positions [begin, end) of a page; masked lanes are -infinity.
template <class Elements>
F8 page_scores(const AttentionTask& t, const typename Elements::type* keys, const float* query,
               int begin, int end, int page_start, F8 first, F8 last, float* scores) {
  const F8 minus_infinity = set1(-__builtin_inff());
  F8 highest = minus_infinity;
  for (int j = begin; j < end; ++j) {
    F8 acc[kAttentionRows];
    for (F8& a : acc) a = zero();
    const typename Elements::type* key = keys + static_cast<ptrdiff_t>(j) * t.head_dim;
    for (int d = 0; d < t.head_dim; d += 8) {
      const F8 k = Elements::read(key + d);
      for (int r = 0; r < kAttentionRows; ++r)
        acc[r] = fma(k, load(query + r * t.head_dim + d), acc[r]);
    }
    const F8 position = set1(static_cast<float>(page_start + j));
    F8 s = select_less(position, last, sums(acc), minus_infinity);
    s = select_less(position, first, minus_infinity, s);
    store(scores + j * kAttentionRows, s);
    highest = max(highest, s);
  }
  return highest;
}

// acc[r] = acc[r] * decay[r] + sum over positions of weight[r] * V.
template <class Elements>
void page_values(const AttentionTask& t, const typename Elements::type* values,
                 const float* weights, const float* decay, int begin, int end, float* sum_rows) {
  for (int d = 0; d < t.head_dim; d += 8) {
    F8 acc[kAttentionRows];
    for (int r = 0; r < kAttentionRows; ++r)
      acc[r] = mul(load(sum_rows + r * t.head_dim + d), set1(decay[r]));
    for (int j = begin; j < end; ++j) {
      const F8 v = Elements::read(values + static_cast<ptrdiff_t>(j) * t.head_dim + d);
      const float* w = weights + j * kAttentionRows;
      for (int r = 0; r < kAttentionRows; ++r) acc[r] = fma(set1(w[r]), v, acc[r]);
    }
    for (int r = 0; r < kAttentionRows; ++r) store(sum_rows + r * t.head_dim + d, acc[r]);
  }
}

// Streaming softmax over whole pages (arXiv 1805.02867), starting from the sink.
template <class Elements>
void attend(const AttentionTask& t) {
  float* query = t.scratch;
  float* sum_rows = query + kAttentionRows * t.head_dim;
  float* weights = sum_rows + kAttentionRows * t.head_dim;
  float first_of[kAttentionRows], last_of[kAttentionRows], sink_of[kAttentionRows];
  int lowest = t.first[0];
  int highest = t.last[0];
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
  }
  const F8 first = load(first_of);
  const F8 last = load(last_of);
  F8 peak = load(sink_of);
  F8 total = set1(1.0f);
  const size_t value_offset = static_cast<size_t>(kPageTokens) * static_cast<size_t>(t.head_dim);
  for (int p = lowest / kPageTokens; p * kPageTokens < highest; ++p) {
    const int start = p * kPageTokens;
    const int begin = lowest > start ? lowest - start : 0;
    const int end = highest - start < kPageTokens ? highest - start : kPageTokens;
    const auto* keys = reinterpret_cast<const typename Elements::type*>(
        t.pool + t.page_stride * static_cast<size_t>(t.pages[p]));
    const F8 page_peak =
        page_scores<Elements>(t, keys, query, begin, end, start, first, last, weights);
    const F8 new_peak = max(peak, page_peak);
    const F8 decay = exp(sub(peak, new_peak));
    total = mul(total, decay);
    for (int j = begin; j < end; ++j) {
      const F8 w = exp(sub(load(weights + j * kAttentionRows), new_peak));
      store(weights + j * kAttentionRows, w);
      total = add(total, w);
    }
    peak = new_peak;
    float decay_of[kAttentionRows];
    store(decay_of, decay);
    page_values<Elements>(t, keys + value_offset, weights, decay_of, begin, end, sum_rows);
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
    attend<HalfElements>(t);
  } else {
    attend<FloatElements>(t);
  }
}
