// Which patches a MIND descriptor compares.
#pragma once

#include "core/macros.h"

namespace plasticine {

// What the difference d of two descriptors counts: sqrt(d^2 + epsilon^2), or d^2.
enum class MindKind : int { charbonnier = 0, squared = 1 };

constexpr int kMindPairs = 18;  // at most
constexpr int kMindPoints = 7;  // at most: the centre and its neighbours

// The patches that are compared: pair k is that of the points first[k] and second[k]. Point 0 is
// the centre, the others are its neighbours, a step of one dilation along an axis.
struct MindPairs {
  int count = 0;
  int points = 1;
  int first[kMindPairs] = {};
  int second[kMindPairs] = {};
  int step[kMindPoints][3] = {};

  PLASTICINE_INLINE explicit MindPairs(int ndim) {
    for (int axis = 0; axis < 3; ++axis) {
      if (ndim == 2 && axis == 1) {
        continue;
      }
      for (int sign = -1; sign <= 1; sign += 2) {
        step[points++][axis] = sign;
      }
    }
    for (int a = 0; a < points; ++a) {
      for (int b = a + 1; b < points; ++b) {
        if (a == 0 || (a - 1) / 2 != (b - 1) / 2) {  // opposite neighbours follow each other
          first[count] = a;
          second[count++] = b;
        }
      }
    }
  }
};

}  // namespace plasticine
