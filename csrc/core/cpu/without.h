// Leaves out a fast path, to measure what it gains.
#pragma once

namespace plasticine {

// Whether the environment variable PLASTICINE_WITHOUT lists a path; asked once for each.
bool is_without(const char* path);

}  // namespace plasticine
