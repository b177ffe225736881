// Per-voxel and per-cell terms of the folding statistics. One source for host and device.
#pragma once

#include "core/macros.h"
#include "core/types.h"

PLASTICINE_NAMESPACE_BEGIN

// Jacobians at or below this are clipped before the logarithm.
constexpr double kSmallestJacobian = 1e-9;

// The determinant of three edge vectors.
template <typename T>
PLASTICINE_INLINE T triple_product(const T (&a)[3], const T (&b)[3], const T (&c)[3]) {
  return a[0] * (b[1] * c[2] - b[2] * c[1]) - a[1] * (b[0] * c[2] - b[2] * c[0]) +
         a[2] * (b[0] * c[1] - b[1] * c[0]);
}

// The part of a signed volume that is negative, as a positive number; of NaN, NaN.
template <typename T>
PLASTICINE_INLINE T negative_part(T volume) {
  return volume >= T(0) ? T(0) : -volume;
}

// Non-diffeomorphic volume of one cell of voxel corners (Liu et al., IJCV 2024): the volume of its
// negatively oriented simplices, as the mean of the two mirrored decompositions. u[c][i] is
// component i, in voxels, at corner c, whose bits, from the highest, are its offsets on the axes.
//
// A square is cut along one diagonal or the other, leaving the triangles at two opposite corners.
template <typename T>
PLASTICINE_INLINE T cell_non_diffeomorphic_volume(const T (&u)[4][2]) {
  T total = T(0);
  for (int corner = 0; corner < 4; ++corner) {
    // The edges of the cell, along axis 0 and 1, that meet at the corner.
    const T edge0[2] = {T(1) + u[corner | 2][0] - u[corner & 1][0],
                        u[corner | 2][1] - u[corner & 1][1]};
    const T edge1[2] = {u[corner | 1][0] - u[corner & 2][0],
                        T(1) + u[corner | 1][1] - u[corner & 2][1]};
    total += negative_part(edge0[0] * edge1[1] - edge0[1] * edge1[0]);
  }
  return total * T(0.25);  // each triangle is half a product; mean of two decompositions
}

// The deformed vector from corner a to corner b.
template <typename T>
PLASTICINE_INLINE void cell_vector(const T (&u)[8][3], int a, int b, T (&out)[3]) {
  for (int i = 0; i < 3; ++i) {
    const int step = ((b >> (2 - i)) & 1) - ((a >> (2 - i)) & 1);
    out[i] = static_cast<T>(step) + u[b][i] - u[a][i];
  }
}

// Six times the volume of tetrahedron (a, b, c, d), with the sign that its corners have before the
// deformation divided out: sign is that of the undeformed triple product.
template <typename T>
PLASTICINE_INLINE T tetrahedron(const T (&u)[8][3], int a, int b, int c, int d, T sign) {
  T ab[3];
  T ac[3];
  T ad[3];
  cell_vector(u, a, b, ab);
  cell_vector(u, a, c, ac);
  cell_vector(u, a, d, ad);
  return sign * triple_product(ab, ac, ad);
}

// A cube is cut into the tetrahedra at four corners, no two of them neighbours, and the one that
// is left between the other four; the mirrored decomposition takes those other four corners.
template <typename T>
PLASTICINE_INLINE T cell_non_diffeomorphic_volume(const T (&u)[8][3]) {
  T total = negative_part(tetrahedron(u, 0, 4, 2, 1, T(1)));
  total += negative_part(tetrahedron(u, 1, 5, 3, 0, T(-1)));
  total += negative_part(tetrahedron(u, 2, 6, 0, 3, T(-1)));
  total += negative_part(tetrahedron(u, 3, 7, 1, 2, T(1)));
  total += negative_part(tetrahedron(u, 4, 0, 6, 5, T(-1)));
  total += negative_part(tetrahedron(u, 5, 1, 7, 4, T(1)));
  total += negative_part(tetrahedron(u, 6, 2, 4, 7, T(1)));
  total += negative_part(tetrahedron(u, 7, 3, 5, 6, T(-1)));
  // The inner tetrahedra: between corners 000, 110, 101, 011 and between 111, 001, 010, 100.
  total += negative_part(tetrahedron(u, 0, 6, 5, 3, T(-1)));
  total += negative_part(tetrahedron(u, 7, 1, 2, 4, T(1)));
  return total * T(1.0 / 12);  // a sixth of each; mean of two decompositions
}

// Natural logarithm of a positive, normal number, without a table or a branch so that rows
// vectorise: x = 2^k m with m about 1, log m = 2 atanh((m - 1) / (m + 1)) as a series.
PLASTICINE_INLINE float natural_log(float x) {
  std::int32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  const std::int32_t offset = bits - 0x3f3504f3;  // the bits of sqrt(1/2)
  const std::int32_t k = offset >> 23;
  const std::int32_t mantissa_bits = (offset & 0x007fffff) + 0x3f3504f3;
  float m;
  __builtin_memcpy(&m, &mantissa_bits, sizeof m);
  const float s = (m - 1.0f) / (m + 1.0f);
  const float q = s * s;
  const float series =
      q * (1.0f / 3 + q * (1.0f / 5 + q * (1.0f / 7 + q * (1.0f / 9 + q * (1.0f / 11)))));
  const float result = 2.0f * s + 2.0f * s * series + static_cast<float>(k) * 0.69314718056f;
  return x > 3.0e38f ? x : result;
}

PLASTICINE_INLINE double natural_log(double x) {
  std::int64_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  const std::int64_t offset = bits - 0x3fe6a09e667f3bcdLL;
  const std::int64_t k = offset >> 52;
  const std::int64_t mantissa_bits = (offset & 0x000fffffffffffffLL) + 0x3fe6a09e667f3bcdLL;
  double m;
  __builtin_memcpy(&m, &mantissa_bits, sizeof m);
  const double s = (m - 1.0) / (m + 1.0);
  const double q = s * s;
  double series = 0.0;
  for (int term = 23; term >= 3; term -= 2) {
    series = q * (1.0 / term + series);
  }
  const double result =
      2.0 * s + 2.0 * s * series + static_cast<double>(k) * 0.693147180559945309417;
  return x > 1.7e308 ? x : result;
}

// Of a NaN, NaN.
template <typename T>
PLASTICINE_INLINE T clipped_log(T jacobian) {
  const T smallest = static_cast<T>(kSmallestJacobian);
  const T clipped = jacobian > smallest ? jacobian : smallest;
  const T logarithm = natural_log(clipped);
  return jacobian == jacobian ? logarithm : jacobian;
}

PLASTICINE_NAMESPACE_END
