#include "check.h"

void test_elementary();
void test_jacobians();
void test_starts();
void test_engine();
void test_all_laws();

int main() {
  test_elementary();
  test_jacobians();
  test_starts();
  test_engine();
  test_all_laws();
  std::printf("%d failures\n", failures());
  return failures() == 0 ? 0 : 1;
}
