#include "warp_exponential/cpu/warp_exponential.h"

#include "core/cpu/huge_pages.h"
#include "core/cpu/parallel.h"
#include "exponential/cpu/first_stage.h"
#include "exponential/stages.h"

namespace plasticine {

namespace {

// Samples all channels where a displacement leads from a block.
template <typename T>
class ImageSampler {
 public:
  ImageSampler(const Tensor& image, const Tensor& out, Mode mode, Padding padding)
      : image_(image),
        out_(out),
        mode_(mode),
        padding_(padding),
        shape_(spatial_shape(image)),
        rows_(select_warp_rows<T>(image.dtype, is_wide(shape_))),
        whole_rows_(rows_.gather_row != nullptr && mode == Mode::linear &&
                    has_rows(shape_, Grid(out))) {}

  // displacement: rows of kBlock per axis.
  void sample(std::int64_t sample, const Block& block, const Locations<T>& locations,
              const T* displacement) const {
    if (whole_rows_ && sample_rows(sample, block, locations, displacement)) {
      return;
    }
    const int n = block.count;
    alignas(64) T coordinates[3 * kBlock];
    CellStorage<T> cells;
    locations.coordinates(sample, block, displacement, coordinates);
    if (mode_ == Mode::linear) {
      rows_.locate(coordinates, shape_, padding_, n, false, &cells);
    } else {
      rows_.locate_nearest(coordinates, shape_, padding_, n, &cells);
    }
    for (std::int64_t channel = 0; channel < image_.shape[1]; ++channel) {
      const void* source =
          element(image_, sample * image_.strides[0] + channel * image_.strides[1]);
      void* target = block_target(out_, sample, channel, block);
      if (mode_ != Mode::linear) {
        rows_.gather_nearest(source, cells, n, target);
      } else if (!rows_.gather(source, shape_, cells, n, T(1), nullptr, target)) {
        with_stored<T>(image_.dtype, [&](auto stored) {
          using Stored = decltype(stored);
          const auto gather =
              shape_.ndim == 2 ? careful_gather<2, Stored, T> : careful_gather<3, Stored, T>;
          gather(source, shape_, padding_, coordinates, n, T(1), nullptr, target);
        });
      }
    }
  }

 private:
  // False where a NaN or an infinity is met.
  bool sample_rows(std::int64_t sample, const Block& block, const Locations<T>& locations,
                   const T* displacement) const {
    const Channels<const void*> source = {element(image_, sample * image_.strides[0]),
                                          image_.strides[1], image_.shape[1]};
    bool finite = true;
    locations.for_each_piece(sample, block, displacement, [&](const RowPiece<T>& piece, int start) {
      const std::int64_t first = sample * out_.strides[0] + block.first + start;
      const Channels<void*> target = {mutable_element(out_, first), out_.strides[1], out_.shape[1]};
      finite = rows_.gather_row(piece, shape_, padding_, source, T(1), false, target) && finite;
    });
    return finite;
  }

  const Tensor& image_;
  const Tensor& out_;
  const Mode mode_;
  const Padding padding_;
  const ImageShape shape_;
  const WarpRows<T>& rows_;
  const bool whole_rows_;
};

// last: a flow whose first stage is the displacement.
template <typename T>
void last_pass(const Tensor& image, const Flow& last, const Tensor& out, Mode mode,
               Padding padding) {
  const FirstStage<T> stage(last);
  const Locations<T> locations(last.velocity, Tensor(), 1.0);
  const ImageSampler<T> sampler(image, out, mode, padding);
  const Grid& grid = stage.grid;
  parallel_for(out.shape[0] * grid.tasks, kTaskGrain, last.threads, [&](std::int64_t task) {
    const std::int64_t sample = task / grid.tasks;
    grid.for_each_block(task % grid.tasks, [&](const Block& block) {
      alignas(64) T field[3 * kBlock];
      alignas(64) T displacement[3 * kBlock];
      stage.load(sample, block, field);
      stage.compute(sample, block, field, displacement);
      sampler.sample(sample, block, locations, displacement);
    });
  });
}

}  // namespace

void warp_exponential_forward(const Tensor& image, const Flow& flow, const Tensor& out,
                              const Stages& stages, const Tensor& scratch, Mode mode,
                              Padding padding) {
  if (is_empty(flow)) {
    return;
  }
  prefer_huge_pages(out);
  Flow last = flow;
  if (flow.steps > first_stage(flow)) {
    // The displacement before the last, of which one squaring is left.
    std::vector<Target> targets = targets_of(flow, stages, 0, Tensor());
    targets.pop_back();  // the last stage is never in memory
    int used = 0;
    if (targets.empty() || targets.back().stage != flow.steps - 1) {
      targets.push_back({flow.steps - 1, stacked(scratch, used++)});
    }
    integrate(flow, first_stage(flow), Tensor(), targets, stacked(scratch, used));
    last.velocity = targets.back().field;
    last.scale = 1.0;
    last.steps = 1;
    last.method = Method::euler;
  }
  if (flow.velocity.dtype == DType::float64) {
    last_pass<double>(image, last, out, mode, padding);
  } else {
    last_pass<float>(image, last, out, mode, padding);
  }
}

}  // namespace plasticine
