// The words of local normalised cross-correlation.
#pragma once

namespace plasticine {

enum class LnccKernel : int { box = 0, gaussian = 1 };
enum class LnccBorder : int { inside = 0, zeros = 1 };
enum class LnccStabiliser : int { flat = 0, floor = 1, offset = 2 };

// A window whose variance is no more of its mean square is flat.
constexpr double kLnccFlat = 1e-10;
// Or no more than this, in whatever unit: float32 holds no inverse of much less.
constexpr double kLnccLeast = 1e-37;

}  // namespace plasticine
