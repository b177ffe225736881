"""What drives a registration: several similarities, channels, labels and landmarks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from refusal import refuses
from textures import inside, smooth_velocity, texture
from torch import Tensor

from plasticine import exponential, warp
from plasticine.metrics import dice, end_point_error
from plasticine.nn.points import move_points
from plasticine.registration import (
    AffineDisplacement,
    GreedyRegistration,
    Landmarks,
    Level,
    Similarity,
    register,
)
from plasticine.registration.label_channels import label_channels
from plasticine.registration.landmarks import fitted
from plasticine.registration.unfolding import folds

QUICK = GreedyRegistration(levels=(Level(2, 25), Level(1, 15)))
SIZE = (48, 40)


def pair(size: tuple[int, ...] = SIZE, channels: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Moving and fixed image, and u with moving∘(id + u) = fixed."""
    fixed = texture(size, 1, channels)
    truth, inverse = exponential(smooth_velocity(size, 2.0), inverse=True)
    return warp(fixed, inverse), fixed, truth


def error(found: AffineDisplacement, truth: Tensor) -> float:
    """What is left of a deformation's end-point error, as a fraction."""
    mask = inside(tuple(truth.shape[2:]))
    before = end_point_error(torch.zeros_like(truth), truth, mask=mask)
    return end_point_error(found.displacement, truth, mask=mask) / before


def driven_by(*similarities: Similarity) -> GreedyRegistration:
    return replace(QUICK, similarity=similarities)


def test_two_equal_losses_are_one() -> None:
    moving, fixed, _ = pair()
    for metric in ("lncc", "mind", "mutual_information", "sum_of_squares"):
        one = QUICK if metric == "lncc" else replace(QUICK, similarity=Similarity(metric))
        two = driven_by(Similarity(metric, weight=0.5), Similarity(metric, weight=3.0))
        expected = one(moving, fixed).displacement
        found = two(moving, fixed).displacement
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)
        alone = driven_by(Similarity(metric, weight=7.0))(moving, fixed).displacement
        assert torch.equal(alone, expected)


def test_a_loss_given_twice_is_one_of_double_weight() -> None:
    moving, fixed, _ = pair()
    squares = Similarity("sum_of_squares")
    twice = driven_by(Similarity(), squares, squares)(moving, fixed)
    double = driven_by(Similarity(), replace(squares, weight=2.0))(moving, fixed)
    torch.testing.assert_close(twice.displacement, double.displacement, atol=2e-3, rtol=0)
    single = driven_by(Similarity(), squares)(moving, fixed)
    assert (single.displacement - double.displacement).abs().max() > 0.02


@pytest.mark.parametrize("size", [SIZE, (24, 26, 22)])
def test_several_losses_find_a_known_deformation(size: tuple[int, ...]) -> None:
    moving, fixed, truth = pair(size)
    several = driven_by(Similarity(), Similarity("mind", weight=0.5), Similarity("sum_of_squares"))
    found = several(moving, fixed)
    assert error(found, truth) < 0.4
    assert not folds(found.displacement)
    assert torch.equal(several(moving, fixed).displacement, found.displacement)


def test_units_do_not_matter() -> None:
    moving, fixed, _ = pair(channels=2)
    similarities = Similarity(channels=range(1)), Similarity("mind", channels=range(1, 2))
    unit = torch.tensor([1000.0, 0.01]).view(1, 2, 1, 1)
    for chosen in (similarities, (similarities[0], replace(similarities[0], channels=range(1, 2)))):
        found = driven_by(*chosen)(moving, fixed).displacement
        again = driven_by(*chosen)(moving * unit, fixed * unit).displacement
        torch.testing.assert_close(again, found, atol=0.02, rtol=0)


def test_channels_have_losses_of_their_own() -> None:
    moving, fixed, truth = pair(channels=2)
    moving[:, 1] = 0.5 - moving[:, 1].abs()  # of another modality
    both = driven_by(Similarity(channels=range(1)), Similarity("mind", channels=range(1, 2)))
    assert error(both(moving, fixed), truth) < 0.35
    # A channel that no loss compares is not looked at.
    first = driven_by(Similarity(channels=range(1)))
    spoilt = torch.cat([moving[:, :1], torch.full_like(moving[:, 1:], 9.0)], 1)
    assert torch.equal(
        first(moving, fixed).displacement, QUICK(moving[:, :1], fixed[:, :1]).displacement
    )
    assert torch.equal(
        first(spoilt, fixed).displacement, QUICK(moving[:, :1], fixed[:, :1]).displacement
    )


def test_every_channel_has_a_histogram_of_its_own() -> None:
    moving, fixed, truth = pair(channels=2)
    mixed = torch.cat([moving[:, :1] + 3, 5 - 4 * moving[:, 1:]], 1)
    settings = replace(QUICK, similarity=Similarity("mutual_information"))
    assert error(settings(mixed, fixed), truth) < 0.45


def test_pairs_of_a_batch_do_not_see_each_other() -> None:
    fixed = texture(SIZE, 2, 2)
    fields = [exponential(smooth_velocity(SIZE, 2.0, seed), inverse=True)[1] for seed in (1, 2)]
    moving = warp(fixed, torch.cat(fields))
    settings = driven_by(
        Similarity(channels=range(1)), Similarity("mutual_information", channels=range(1, 2))
    )
    points = torch.tensor([[[10.0, 12.0], [30.0, 20.0]]])
    landmarks = Landmarks(points + 1, points)
    mask = torch.ones(1, 1, *SIZE)
    mask[..., :5] = 0
    together = settings(moving, fixed, landmarks=landmarks, fixed_mask=mask)
    alone = settings(moving[1:], fixed[1:], landmarks=landmarks, fixed_mask=mask)
    torch.testing.assert_close(together.displacement[1:], alone.displacement, atol=1e-4, rtol=0)


def test_a_flat_channel_changes_nothing() -> None:
    moving, fixed, _ = pair()
    flat = torch.full_like(fixed, 2.0)
    similarities = Similarity(channels=range(1)), Similarity(channels=range(1, 2))
    found = driven_by(*similarities)(torch.cat([moving, flat], 1), torch.cat([fixed, flat], 1))
    expected = QUICK(moving, fixed)
    # Weaker by half, and so is the least gradient that counts beside it.
    assert end_point_error(found.displacement, expected.displacement) < 0.05
    nothing = driven_by(*similarities)(*[torch.cat([flat, flat], 1)] * 2)
    assert nothing.displacement.abs().max() < 0.02


def test_landmarks_pull() -> None:
    size = (40, 44)
    image = texture(size)
    # The images say: stay where you are.
    fixed = torch.tensor([[[12.0, 14.0], [28.0, 30.0]]])
    moving = fixed + torch.tensor([[[2.0, -1.0], [-1.5, 2.0]]])
    for landmarks in (Landmarks(moving, fixed, 1.0), Landmarks(moving, fixed, 20.0)):
        found = QUICK(image, image, landmarks=landmarks)
        assert not folds(found.displacement)
        left = (move_points(fixed, found.displacement) - moving).norm(dim=2)
        assert left.max() < (2.0 if landmarks.weight == 1 else 0.4)
        far = found.displacement[..., 35:, :8]
        assert far.abs().max() < 0.3
    # They weigh more than they did.
    assert left.max() < 0.4


def test_landmarks_pull_through_an_affine_map() -> None:
    size = (22, 20, 24)
    fixed = texture(size)
    matrix = torch.tensor([[[0.0, 1.0, 0.0, 1.0], [-1.0, 0.0, 0.0, 21.0], [0.0, 0.0, 2.0, 1.0]]])
    moving = torch.zeros(1, 1, 22, 24, 50)
    points = torch.tensor([[[8.0, 9.0, 10.0], [14.0, 11.0, 6.0], [-0.4, 19.4, 12.0]]])
    apart = torch.tensor([1.5, -1.0, 1.0])
    targets = (points + apart) @ matrix[0, :, :3].T + matrix[0, :, 3]
    found = QUICK(moving, fixed, affine=matrix, landmarks=Landmarks(targets, points))
    left = (move_points(points, found.displacement) - points - apart).norm(dim=2)
    assert left.max() < 0.35 * float(apart.norm())


def test_landmarks_help_where_images_mislead() -> None:
    moving, fixed, truth = pair(SIZE)
    noise = torch.randn(fixed.shape, generator=torch.Generator().manual_seed(5))
    moving = moving + 0.4 * noise
    grid = torch.stack(
        torch.meshgrid(torch.arange(6.0, 46, 9), torch.arange(6.0, 38, 9), indexing="ij")
    )
    points = grid.flatten(1).T[None]
    landmarks = Landmarks(move_points(points, truth), points)
    assert error(QUICK(moving, fixed, landmarks=landmarks), truth) < error(
        QUICK(moving, fixed), truth
    )


@pytest.mark.parametrize("ndim", [2, 3])
def test_fits_landmarks(ndim: int) -> None:
    generator = torch.Generator().manual_seed(ndim)
    fixed = 40 * torch.randn(1, 9, ndim, generator=generator, dtype=torch.float64)
    upper = torch.triu(torch.full((ndim, ndim), 0.4, dtype=torch.float64), 1)
    turn = torch.linalg.matrix_exp(upper - upper.T)
    shear = torch.eye(ndim, dtype=torch.float64)
    shear[0, 1] = 0.3
    shift = torch.arange(1.0, ndim + 1, dtype=torch.float64)
    for transform, linear in (
        ("rigid", turn),
        ("similarity", 1.3 * turn),
        ("affine", turn @ shear),
    ):
        found = fitted(Landmarks(fixed @ linear.T + shift, fixed), transform)
        torch.testing.assert_close(found[:-1, :-1], linear)
        torch.testing.assert_close(found[:-1, -1], shift)
    # Too few for an affine map; for a rotation; on one line.
    few = fixed[:, :ndim]
    found = fitted(Landmarks(1.3 * few @ turn.T + shift, few), "affine")
    torch.testing.assert_close(found[:-1, :-1], 1.3 * turn)
    line = torch.linspace(-3, 3, 6, dtype=torch.float64)[:, None] * fixed[0, :1]
    for points in (fixed[:, : ndim - 1], line[None] if ndim == 3 else fixed[:, :1]):
        found = fitted(Landmarks(points + shift, points), "affine")
        torch.testing.assert_close(found[:-1, :-1], torch.eye(ndim, dtype=torch.float64))
        torch.testing.assert_close(found[:-1, -1], shift)
    mirrored = fixed * torch.tensor([-1.0, *[1.0] * (ndim - 1)])
    assert torch.linalg.det(fitted(Landmarks(mirrored, fixed), "rigid")) > 0


def regions(count: int, size: tuple[int, ...] = SIZE) -> Tensor:
    """Labels 0 to ``count``, scattered over an image."""
    smooth = texture(size, 1, count + 1, seed=7)
    return smooth.argmax(1, keepdim=True)


@pytest.mark.parametrize(
    ("count", "method"), [(1, "greedy"), (5, "greedy"), (30, "greedy"), (5, "velocity")]
)
def test_labels_drive(count: int, method: str) -> None:
    fixed_labels = regions(count)
    _, inverse = exponential(smooth_velocity(SIZE, 2.0), inverse=True)
    moving_labels = warp(fixed_labels.double(), inverse.double(), mode="nearest").long()
    # The images show next to nothing.
    fixed, moving = (0.01 * texture(SIZE, seed=seed) for seed in (3, 4))
    found = register(
        moving, fixed, moving_labels=moving_labels, fixed_labels=fixed_labels, labels_weight=8.0,
        initial=torch.eye(3), method=method,
    )  # fmt: skip

    def overlap(labels: Tensor) -> float:
        scores = dice(labels, fixed_labels)
        return sum(scores.values()) / len(scores)

    affine = found.mapping.affine
    still = replace(found.mapping, displacement=torch.zeros_like(found.mapping.displacement))
    before, after = (
        overlap(mapping.warp(moving_labels.float(), mode="nearest").long())
        for mapping in (still, found.mapping)
    )
    assert affine is not None
    assert after > before + 0.35 * (1 - before)
    assert int(found.folding.folds) == 0


def test_label_channels() -> None:
    image = texture(SIZE)
    labels = regions(5) * 1000
    coded = label_channels(image, image, labels, labels.clamp_max(4000))
    assert coded[0].shape == (1, 4, *SIZE)
    for number in range(4):
        inside_one = (labels == 1000 * (number + 1)).to(image)
        assert torch.equal(coded[0][:, number : number + 1], inside_one)
    many = label_channels(image, image, regions(30), regions(30).int())
    assert many[0].shape == (1, 8, *SIZE)
    lengths = many[0].norm(dim=1, keepdim=True)
    torch.testing.assert_close(lengths, (regions(30) > 0).to(lengths))
    assert torch.equal(*many)
    codes = many[0].flatten(2)[0].T.unique(dim=0)
    assert len(codes) == 31
    assert float((codes @ codes.T).fill_diagonal_(0).max()) < 0.8


@pytest.mark.parametrize("method", ["greedy", "velocity"])
def test_landmarks_drive_both_stages(method: str) -> None:
    size = (40, 44)
    fixed = texture(size)
    truth, inverse = exponential(smooth_velocity(size, 1.0), inverse=True)
    turned = torch.tensor([[0.8, -0.6], [0.6, 0.8]])
    shift = torch.tensor([20.0, -9.0])
    # fixed millimetres -> moving millimetres: turned, then 2 mm voxels of another origin
    fixed_affine = torch.tensor([[2.0, 0.0, -5.0], [0.0, 2.0, 3.0], [0.0, 0.0, 1.0]])
    moving_affine = torch.eye(3)
    moving_affine[:2, :2] = turned @ fixed_affine[:2, :2]
    moving_affine[:2, 2] = turned @ fixed_affine[:2, 2] + shift
    moving = warp(fixed, inverse)
    voxels = torch.tensor([[[8.0, 9.0], [30.0, 12.0], [20.0, 33.0], [12.0, 25.0], [33.0, 36.0]]])
    landmarks = Landmarks(
        move_points(voxels, truth) @ moving_affine[:2, :2].T + moving_affine[:2, 2],
        voxels @ fixed_affine[:2, :2].T + fixed_affine[:2, 2],
    )
    found = register(moving, fixed, moving_affine, fixed_affine, landmarks=landmarks, method=method)
    assert found.affine.start == "initial"
    errors = found.landmark_errors(landmarks)
    assert errors["before"].shape == (5,)
    assert errors["before"].min() > 5
    assert errors["affine"].mean() < 3
    assert errors["after"].mean() < 0.8
    one = Landmarks(landmarks.moving[:, :1], landmarks.fixed[:, :1])
    again = register(moving, fixed, moving_affine, fixed_affine, landmarks=one, transform="rigid")
    assert again.affine.start != "initial"


def test_a_level_ends_early() -> None:
    moving, fixed, truth = pair()
    calls: list[tuple[int, int]] = []

    def run(tolerance: float) -> AffineDisplacement:
        calls.clear()
        settings = replace(QUICK, tolerance=tolerance)
        return settings(moving, fixed, progress=lambda *at: calls.append(at))

    expected = run(0.0)
    assert len(calls) == 40
    # So little a change is not reached.
    assert torch.equal(run(1e-6).displacement, expected.displacement)
    assert len(calls) == 40
    early = run(0.05)
    assert 5 < len(calls) < 40
    assert calls == sorted(calls)
    assert calls[-1] == (40, 40)
    assert error(early, truth) < error(expected, truth) + 0.1
    run(100.0)
    assert calls == [(1, 40), (25, 40), (26, 40), (40, 40)]
    refuses(ValueError, "tolerance must be at least 0", replace, QUICK, tolerance=-0.1)


def test_refuses() -> None:
    image = texture((20, 18))
    points = torch.tensor([[[3.0, 4.0]]])
    labels = regions(3, (20, 18))
    refuses(ValueError, "weight must be positive", Similarity, weight=0.0)
    refuses(ValueError, "channels must be a range", Similarity, channels=range(2, 2))
    refuses(ValueError, "channels must be a range", Similarity, channels=range(0, 4, 2))
    refuses(ValueError, "needs a similarity", replace, QUICK, similarity=())
    refuses(TypeError, "must be a Similarity", replace, QUICK, similarity=("lncc",))
    other = driven_by(Similarity(channels=range(1, 3)))
    refuses(ValueError, "channels 1 to 2 .* images of 1", other, image, image)
    refuses(TypeError, "landmarks.moving must be", Landmarks, [[1, 2]], points)
    refuses(ValueError, r"\(N, K, d\)", Landmarks, points[0], points[0])
    refuses(ValueError, "as many landmarks", Landmarks, points.repeat(1, 2, 1), points)
    refuses(TypeError, "floating point", Landmarks, points.long(), points)
    refuses(ValueError, "must be finite", Landmarks, points / 0, points)
    refuses(ValueError, "weight must be positive", Landmarks, points, points, -1.0)
    outside = Landmarks(points, points + 30)
    message = r"within its \(20, 18\) voxels; 1 do not, first of them number 1, at voxel \[33"
    refuses(ValueError, message, QUICK, image, image, landmarks=outside)
    refuses(ValueError, message, register, image, image, landmarks=outside)
    solid = torch.zeros(1, 2, 3)
    refuses(ValueError, "landmarks must be", QUICK, image, image, landmarks=Landmarks(solid, solid))
    refuses(ValueError, "metric must be one of", register, image, image, metric="ssd")
    maps = {"moving_labels": labels, "fixed_labels": labels}
    refuses(ValueError, "drive the deformable", register, image, image, transform="rigid", **maps)
    refuses(ValueError, "in pairs", register, image, image, moving_labels=labels)
    refuses(TypeError, "integer dtype", register, image, image, **maps | {"fixed_labels": image})
    bad = {"fixed_labels": labels[..., 1:]}
    refuses(ValueError, "fixed_labels must be", register, image, image, **maps | bad)
    bad = {"fixed_labels": labels + 10}
    refuses(ValueError, "share a label", register, image, image, **maps | bad)
    refuses(ValueError, "weight must be", register, image, image, **maps, labels_weight=-1.0)
