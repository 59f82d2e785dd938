// exp, log, the small Cholesky and the random numbers against the standard
// library and known values.
#include "core/elementary.h"

#include <limits>
#include <vector>

#include "check.h"
#include "core/dense.h"
#include "core/rng.h"

using namespace megascale;

namespace {

template <class Real>
void test_functions() {
  double worst_exp = 0, worst_log = 0;
  for (int i = 0; i <= 200000; ++i) {
    const double x = -700 + 1400.0 * i / 200000;
    worst_exp = std::fmax(worst_exp, std::fabs(lane(vexp(Real(x)), 0) / std::exp(x) - 1));
    const double y = std::exp(x);
    const double expected = std::log(y);
    const double error = std::fabs(lane(vlog(Real(y)), 0) - expected);
    worst_log = std::fmax(worst_log, error / std::fmax(std::fabs(expected), 1e-3));
  }
  for (int i = -1000; i <= 1000; ++i) {
    const double y = 1 + i * 1e-9;
    worst_log = std::fmax(worst_log, std::fabs(lane(vlog(Real(y)), 0) - std::log(y)));
  }
  CHECK(worst_exp < 5e-16);
  CHECK(worst_log < 5e-16);
  CHECK(std::isfinite(lane(vexp(Real(1e9)), 0)));
  CHECK(lane(vexp(Real(-1e9)), 0) < 1e-300);
  CHECK(!all(finite(Real(std::numeric_limits<double>::quiet_NaN()))));
  CHECK(!all(finite(Real(INFINITY))));
}

void test_cholesky() {
  // A = B B' with B = [[2,0,0],[1,3,0],[-1,.5,1.5]], b = A (1, -2, 3)'.
  double a[6] = {4, 2, 10, -2, 0.5, 3.5};
  double b[3] = {4 * 1 + 2 * -2 + -2 * 3.0, 2 * 1 + 10 * -2 + 0.5 * 3, -2 * 1 + 0.5 * -2 + 3.5 * 3};
  cholesky<3>(a, 1e-300);
  cholesky_solve<3>(a, b);
  CHECK(close(b[0], 1, 1e-14));
  CHECK(close(b[1], -2, 1e-14));
  CHECK(close(b[2], 3, 1e-14));
}

void test_philox() {
  // Known answer of Philox4x32-10 for a zero key and counter (Random123's
  // kat_vectors).
  uint32_t words[4 * kPhiloxBlocks];
  philox<kPhiloxBlocks>({0, 0}, 0, 0, 0, words);
  CHECK(words[0] == 0x6627e8d5u);
  CHECK(words[1] == 0xe169c58du);
  CHECK(words[2] == 0xbc57ac4cu);
  CHECK(words[3] == 0x9b00dbd8u);
  Draws draws(7, 1, 2);
  double sum = 0, square = 0;
  constexpr int kDraws = 200000;
  for (int i = 0; i < kDraws; ++i) {
    const double z = draws.normal();
    sum += z;
    square += z * z;
  }
  CHECK(std::fabs(sum / kDraws) < 0.01);
  CHECK(std::fabs(square / kDraws - 1) < 0.02);
  std::vector<int> seen(10);
  for (int i = 0; i < 100000; ++i) ++seen[draws.below(10)];
  for (int count : seen) CHECK(std::abs(count - 10000) < 500);
  // Many at once are the same numbers as one at a time, from any place in the sequence.
  for (const int skip : {0, 5, 32}) {
    Draws one(3, 4, 5), many(3, 4, 5);
    for (int i = 0; i < skip; ++i) CHECK(one.word() == many.word());
    std::vector<uint32_t> drawn(333);
    many.below(129, 333, drawn.data());
    for (const uint32_t value : drawn) CHECK(value == one.below(129));
    CHECK(one.word() == many.word());
  }
}

}  // namespace

void test_elementary() {
  test_functions<double>();
#if MS_HAS_PACK
  test_functions<Pack<2>>();
  test_functions<Pack<4>>();
  test_functions<Pack<8>>();
#endif
  test_cholesky();
  test_philox();
}
