#include "core/cpu/without.h"

#include <cstdlib>
#include <cstring>

namespace plasticine {

bool is_without(const char* path) {
  const char* listed = std::getenv("PLASTICINE_WITHOUT");
  return listed != nullptr && std::strstr(listed, path) != nullptr;
}

}  // namespace plasticine
