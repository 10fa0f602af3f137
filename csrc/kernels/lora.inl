// The two kernels of a low-rank delta, written over eight lanes; see lora.h. Included by
// kernels.inl, inside the namespace of an instruction set.

struct Bf16Factors {
  using type = uint16_t;
  static F8 read(const type* p) { return load_bf16(p); }
};
struct F32Factors {
  using type = float;
  static F8 read(const type* p) { return load(p); }
};

// inner = scale * a x for N tokens and kRankUnit ranks from `rank` on.
template <class Factors, int N>
void low_rank_shrink_tile(const LowRankTask& t, int rank, int token) {
  const LowRank& f = *t.factors;
  const ptrdiff_t stride = f.stride();
  const auto* a = reinterpret_cast<const typename Factors::type*>(f.a) + rank * stride;
  const float* x[N];
  F8 acc[N][kRankUnit];
  for (int n = 0; n < N; ++n) {
    x[n] = t.x + t.in_rows[token + n] * t.x_stride;
    for (F8& sum_of : acc[n]) sum_of = zero();
  }
  for (ptrdiff_t c = 0; c < stride; c += 8) {
    F8 columns[N];
    for (int n = 0; n < N; ++n) columns[n] = load(x[n] + c);
    for (int j = 0; j < kRankUnit; ++j) {
      const F8 row = Factors::read(a + j * stride + c);
      for (int n = 0; n < N; ++n) acc[n][j] = fma(row, columns[n], acc[n][j]);
    }
  }
  for (int n = 0; n < N; ++n)
    for (int j = 0; j < kRankUnit; ++j)
      t.inner[(token + n) * t.inner_stride + rank + j] = f.scale * sum(acc[n][j]);
}

template <class Factors>
void low_rank_shrink_all(const LowRankTask& t, int begin, int end) {
  for (int rank = 0; rank < t.factors->rank; rank += kRankUnit) {
    int i = begin;
    for (; i + 2 <= end; i += 2) low_rank_shrink_tile<Factors, 2>(t, rank, i);
    if (i < end) low_rank_shrink_tile<Factors, 1>(t, rank, i);
  }
}

// Tokens [begin, end) of the task.
void low_rank_shrink(const LowRankTask& t, int32_t begin, int32_t end) {
  if (t.factors->kind == WeightKind::kBf16) {
    low_rank_shrink_all<Bf16Factors>(t, begin, end);
  } else {
    low_rank_shrink_all<F32Factors>(t, begin, end);
  }
}

void low_rank_add(const LowRankTask& t, int panel, int token, F8 value) {
  float* out = t.out + t.out_rows[token] * t.out_stride + panel * kPanelRows;
  const int left = t.factors->rows - panel * kPanelRows;
  if (left >= kPanelRows) {
    store(out, add(load(out), value));
    return;
  }
  float lanes_of[kPanelRows];
  store(lanes_of, value);
  for (int i = 0; i < left; ++i) out[i] += lanes_of[i];
}

// out += b inner for N tokens and one panel.
template <class Factors, int N>
void low_rank_expand_tile(const LowRankTask& t, int panel, int token) {
  const int rank = t.factors->rank;
  const auto* b = reinterpret_cast<const typename Factors::type*>(t.factors->b) +
                  static_cast<ptrdiff_t>(panel) * rank * kPanelRows;
  const float* inner[N];
  F8 acc[N];
  for (int n = 0; n < N; ++n) {
    inner[n] = t.inner + (token + n) * t.inner_stride;
    acc[n] = zero();
  }
  for (int j = 0; j < rank; ++j) {
    const F8 column = Factors::read(b + j * kPanelRows);
    for (int n = 0; n < N; ++n) acc[n] = fma(column, set1(inner[n][j]), acc[n]);
  }
  for (int n = 0; n < N; ++n) low_rank_add(t, panel, token + n, acc[n]);
}

template <class Factors>
void low_rank_expand_all(const LowRankTask& t, int begin, int end) {
  for (int p = begin; p < end; ++p) {
    int i = 0;
    for (; i + 4 <= t.tokens; i += 4) low_rank_expand_tile<Factors, 4>(t, p, i);
    for (; i < t.tokens; ++i) low_rank_expand_tile<Factors, 1>(t, p, i);
  }
}

// Panels [begin, end) of b, all tokens.
void low_rank_expand(const LowRankTask& t, int32_t begin, int32_t end) {
  if (t.factors->kind == WeightKind::kBf16) {
    low_rank_expand_all<Bf16Factors>(t, begin, end);
  } else {
    low_rank_expand_all<F32Factors>(t, begin, end);
  }
}
