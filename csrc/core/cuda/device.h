// Whether a GPU can run what this build holds. Nothing here needs a CUDA header.
#pragma once

#include <string>

namespace plasticine::cuda {

// Why the kernels cannot run on a device, in CUDA's words: the build holds no code for it, or the
// driver is too old. Empty where they can. Launches nothing.
std::string device_error(int device);

}  // namespace plasticine::cuda
