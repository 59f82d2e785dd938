// The start strategy: which starts a search makes, what it keeps of where they ended, and what of
// that goes on to the full problem, and the rounds of the local search from there.
#include "core/starts.h"

#include <initializer_list>

#include "check.h"
#include "laws/registry.h"

using namespace megascale;

namespace {

bool is(StartRange range, int from, int to) { return range.from == from && range.to == to; }

void test_designed_starts() {
  using Law = Wsd<false>;
  CHECK(is(starts_of<Law>(0, true), 0, 8));
  CHECK(is(starts_of<Law>(0, false), 0, 20));
  CHECK(is(starts_of<Law>(50, true), 0, 50));  // exactly as many as asked for
  CHECK(start_of_rank<Law>(7, 0, nullptr) == 7);
}

void test_cells() {
  CHECK(is(starts_of<Chinchilla>(0, false), 0, 2));
  CHECK(is(starts_of<Chinchilla>(3, false), 0, 3));
  CHECK(is(starts_of<Chinchilla>(9, false), 0, 4));
  const int cells[kBestCells] = {5, 6, 2, -1};
  CHECK(start_of_rank<Chinchilla>(1, 0, cells) == 6);
  // On a grid of one parameter the neighbour of the best cell is in the same valley.
  CHECK(start_of_rank<LossCurve>(0, 0, cells) == 5);
  CHECK(start_of_rank<LossCurve>(1, 0, cells) == -1);
  CHECK(start_of_rank<LossCurve>(1, 2, cells) == 6);
  CHECK(start_of_rank<LossCurve>(2, 0, cells) == 2);
  CHECK(start_of_rank<LossCurve>(3, 0, cells) == -1);
}

// The rounds of a local search: moves until enough come back; all moves again from a better
// optimum; designed starts where few come back; an end.
void test_descent() {
  bool fresh;
  Descent easy;
  CHECK(is(easy.next(14, true, &fresh), 0, Descent::kFirst) && !fresh);
  for (const double cost : {1.0, 1.0004, 7.0}) easy.count(cost, 1.0);
  CHECK(easy.agreeing == 3);
  CHECK(is(easy.next(14, true, &fresh), 0, 0));

  Descent hard;
  hard.next(14, true, &fresh);
  hard.count(7.0, 1.0);
  CHECK(Descent::promising(0.5, 1.0) && !Descent::promising(7.0, 1.0));
  hard.judge(0.5, 1.0);
  CHECK(is(hard.next(14, true, &fresh), 0, 14));
  CHECK(
      is(hard.next(14, true, &fresh), Descent::kFreshFrom, Descent::kFreshFrom + Descent::kFresh) &&
      fresh);
  CHECK(is(hard.next(14, true, &fresh), 0, 0));
  CHECK(is(hard.next(14, true, &fresh), 0, 0));

  Descent endless;  // every round finds a better optimum
  int rounds = 0;
  for (double cost = 1; endless.next(14, false, &fresh).to > 0; cost /= 2) {
    CHECK(++rounds < 20);
    endless.judge(cost / 2, cost);
  }
}

void test_optima() {
  Optima<1> found;
  auto end = [&](double cost, double t) { found.add(cost, &t, 4, 10); };
  end(kInfeasible, 9);
  CHECK(found.starts == 1 && found.agreeing == 0 &&
        found.to_polish(false, false, false, false) == 0);
  end(3, 0.3);
  end(2, 0.2);
  end(3 * (1 + 1e-9), 0.31);  // the second optimum again
  CHECK(found.agreeing == 1 && found.cost[0] == 2 && found.cost[1] == 3 && found.t[1][0] == 0.3);
  end(2 * (1 - 1e-9), 0.21);  // the first again, a little lower
  CHECK(found.agreeing == 2 && found.t[0][0] == 0.21);
  end(4, 0.4);
  end(1, 0.1);
  CHECK(found.agreeing == 1 && found.cost[0] == 1 && found.t[2][0] == 0.3);
  CHECK(found.starts == 7 && found.iterations == 28);
  CHECK(found.to_polish(true, false, false, true) == 1);
  CHECK(found.to_polish(true, false, true, true) == 2);
  CHECK(found.to_polish(true, true, false, true) == 3);
  CHECK(found.to_polish(false, false, false, false) == 3);
  CHECK(found.to_polish(false, false, false, true) == 2);
  CHECK(Optima<0>().to_polish(false, true, true, false) == 1);
  // Costs that are only rounding agree.
  Optima<1> exact;
  const double t = 0;
  exact.add(1e-16, &t, 1, 10);
  exact.add(5e-15, &t, 1, 10);
  CHECK(exact.agreeing == 2 && exact.cost[0] == 1e-16);
}

}  // namespace

void test_starts() {
  test_designed_starts();
  test_cells();
  test_optima();
  test_descent();
}
