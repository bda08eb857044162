// A C++ program with a heap of known content: one line of JSON, then `N` on input makes N more sessions.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>
namespace app {
struct Base { virtual ~Base() {} int x = 1; };
struct Session : Base { char user[40]; };
struct Order : Base { long lines[20]; };
struct Other { virtual ~Other() {} };
struct Both : Session, Other {};
struct Shared : Base { long v[3]; };
}  // namespace app
struct Plain { long a[11]; };
static std::vector<void *> kept;
static std::vector<std::shared_ptr<app::Shared>> shared;
template <class T> static void make_and_free(int n) {
  std::vector<T *> gone;
  for (int i = 0; i < n; i++) gone.push_back(new T);
  for (T *one : gone) delete one;
}
int main(int argc, char **argv) {
  int n = argc > 1 ? atoi(argv[1]) : 1000;
  for (int i = 0; i < n; i++) {
    kept.push_back(new app::Session);
    if (i % 2 == 0) kept.push_back(new app::Order);
    if (i % 4 == 0) kept.push_back(new Plain);
    if (i % 20 == 0) kept.push_back(new app::Both);
  }
  make_and_free<app::Order>(n);
  make_and_free<app::Session>(n);
  std::thread other([n] { for (int i = 0; i < n / 10; i++) shared.push_back(std::make_shared<app::Shared>()); });
  other.join();
  printf("{\"Session\": %d, \"Order\": %d, \"Both\": %d, \"Shared\": %d}\n", n, n / 2, n / 20, n / 10);
  fflush(stdout);
  char line[100];
  while (fgets(line, sizeof line, stdin)) {
    for (int i = atoi(line); i > 0; i--) kept.push_back(new app::Session);
    printf("grown\n");
    fflush(stdout);
  }
}
