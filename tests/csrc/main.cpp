#include "check.h"

void test_elementary();
void test_jacobians();
void test_engine();

int main() {
  test_elementary();
  test_jacobians();
  test_engine();
  std::printf("%d failures\n", failures());
  return failures() == 0 ? 0 : 1;
}
