// The start strategy: which starts a search makes, what it keeps of where they ended, and what of
// that goes on to the full problem.
#include "core/starts.h"

#include "check.h"
#include "laws/registry.h"

using namespace megascale;

namespace {

bool is(StartRange range, int from, int to) { return range.from == from && range.to == to; }

void test_designed_starts() {
  using Law = Wsd<false>;
  CHECK(is(starts_of_round<Law>(0, 0, 0), 0, 10));
  CHECK(is(starts_of_round<Law>(1, 0, 2), 10, 34));  // fewer than three agree
  CHECK(is(starts_of_round<Law>(1, 0, 3), 0, 0));
  CHECK(is(starts_of_round<Law>(0, 50, 0), 0, 50));  // exactly as many as asked for
  CHECK(is(starts_of_round<Law>(1, 50, 1), 0, 0));
  CHECK(start_of_rank<Law>(7, 0, nullptr) == 7);
}

void test_cells() {
  CHECK(is(starts_of_round<Chinchilla>(0, 0, 0), 0, 2));
  CHECK(is(starts_of_round<Chinchilla>(0, 3, 0), 0, 3));
  CHECK(is(starts_of_round<Chinchilla>(0, 9, 0), 0, 4));
  CHECK(is(starts_of_round<Chinchilla>(1, 0, 1), 0, 0));
  const int cells[kBestCells] = {5, 6, 2, -1};
  CHECK(start_of_rank<Chinchilla>(1, 0, cells) == 6);
  // On a grid of one parameter the neighbour of the best cell is in the same valley.
  CHECK(start_of_rank<LossCurve>(0, 0, cells) == 5);
  CHECK(start_of_rank<LossCurve>(1, 0, cells) == -1);
  CHECK(start_of_rank<LossCurve>(1, 2, cells) == 6);
  CHECK(start_of_rank<LossCurve>(2, 0, cells) == 2);
  CHECK(start_of_rank<LossCurve>(3, 0, cells) == -1);
}

void test_optima() {
  Optima<1> found;
  auto end = [&](double cost, double t) { found.add(cost, &t, 4, 10); };
  end(kInfeasible, 9);
  CHECK(found.starts == 1 && found.agreeing == 0 && found.to_polish(false, false, false) == 0);
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
  CHECK(found.to_polish(true, false, false) == 1);
  CHECK(found.to_polish(true, false, true) == 2);
  CHECK(found.to_polish(true, true, false) == 3);
  CHECK(found.to_polish(false, false, false) == 3);
  CHECK(Optima<0>().to_polish(false, true, true) == 1);
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
}
