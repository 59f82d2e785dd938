// The start strategy: which starts a search makes, what it keeps of where they ended, and what of
// that goes on to the full problem, and the rounds of the local search from there.
#include "core/starts.h"

#include <cmath>
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
// optimum; an end.
void test_descent() {
  Descent easy;
  CHECK(is(easy.next(14, true, true), 0, Descent::kFirstRay));
  for (const double cost : {1.0, 1.0004, 7.0}) easy.count(cost, 1.0);
  CHECK(easy.agreeing == 3);
  CHECK(is(easy.next(14, true, true), 0, 0));

  Descent hard;
  CHECK(is(hard.next(14, false, true), 0, Descent::kFirst));
  hard.count(7.0, 1.0);
  CHECK(Descent::promising(0.5, 1.0) && !Descent::promising(7.0, 1.0));
  hard.judge(0.5, 1.0);
  CHECK(hard.improved);
  CHECK(is(hard.next(14, false, true), 0, 14));
  CHECK(is(hard.next(14, false, true), 0, 0));
  CHECK(is(hard.next(14, false, true), 0, 0));

  Descent endless;  // every round finds a better optimum
  int rounds = 0;
  for (double cost = 1; endless.next(14, false, false).to > 0; cost /= 2) {
    CHECK(++rounds < 20);
    endless.judge(cost / 2, cost);
  }
}

// The best few of many runs: in the order of cost, each optimum once.
void test_few() {
  Few<3> best;
  const double costs[] = {kInfeasible, 5, 3, 3.0001, 9, 1, 4, 0.9999};
  for (int k = 0; k < 8; ++k) best.add(costs[k], k);
  CHECK(best.count == 3);
  CHECK(best.run[0] == 7 && best.run[1] == 2 && best.run[2] == 6);
}

// Rounds go on until two found the same optimum, or the first was easy, or there are no more; an
// optimum that one round alone found says so.
void test_verdict() {
  Verdict easy;
  CHECK(!easy.settled() && easy.judge(1.0, kInfeasible));
  easy.compare(1.0, 1.0);
  easy.compare(3.0, 1.0);
  easy.settle(4, false, true);
  CHECK(easy.settled() && easy.agreeing() == 4);

  for (const bool rival : {false, true}) {
    Verdict twice;
    twice.judge(1.0, kInfeasible);
    if (rival) twice.compare(1.05, 1.0);
    twice.settle(rival ? 9 : 2, false, true);  // too few came back, or another is as good
    CHECK(!twice.settled() && twice.agreeing() == 1);
    CHECK(!twice.judge(2.0, 1.0) && !twice.settled());  // a round that finds a worse one
    CHECK(!twice.judge(1.0, 1.0) && twice.settled() && twice.agreeing() == 2);
  }

  Verdict never;
  double cost = 16;
  for (int round = 0; round < Verdict::kRounds; ++round, cost /= 2) {
    CHECK(!never.settled());
    CHECK(never.judge(cost, round ? 2 * cost : kInfeasible));
    never.settle(1, false, true);
  }
  CHECK(never.settled() && never.agreeing() == 1);
}

// The cells of every round are shapes of the law, and starts that the solver can take.
void test_screen() {
  using Law = Wsd<false>;
  const double s[] = {2, 3, 4, 6, 9, 13}, y[] = {9, 5, 4, 4.5, 6, 8};
  const double* x[] = {s};
  for (const int points : {1, 2, 6}) {
    for (int round = 0; round < Verdict::kRounds; ++round) {
      double knots[Law::kKnots];
      Law::knots({x, y, points, 2.0}, round, knots);
      for (int n = 0; n < Law::kScreen; ++n) {
        double t[Law::kNonlinear];
        int kinds[2];
        Law::cell_start(n, knots, 2.0, t);
        Law::kinds(n, kinds);
        CHECK(0 <= kinds[0] && kinds[0] < kinds[1] && kinds[1] < Law::kKinds);
        for (const double at : t) CHECK(std::isfinite(at));
      }
    }
  }
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
  test_descent();
  test_few();
  test_verdict();
  test_screen();
}
