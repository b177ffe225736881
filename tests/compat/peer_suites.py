"""The suites that ``run_peer_suites.py`` runs, and why some of their tests fail."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Suite:
    """Tests of a project.

    Attributes:
        project: of ``plasticine.compat``.
        label: for people.
        distribution: the project's.
        repository: where its checkout is.
        tests: the folder of its tests there and in the sdist.
        files: which of these are run; none for all.
        options: of pytest.
        needs: what they import; it is installed where it is missing, without what that needs.
        helped_by: what ``peer_tests.py`` does for them.
        wants_the_same_bits: whether they ask for these by ``torch.equal``.
        known: reasons of failures, by a part of the name of a test.
    """

    project: str
    label: str
    distribution: str
    repository: str
    tests: str = "tests"
    files: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    helped_by: tuple[str, ...] = ()
    wants_the_same_bits: bool = False
    known: dict[str, str] = field(default_factory=dict)


_MONAI = "https://github.com/Project-MONAI/MONAI"
_WANTS_DATA = "It needs an image that could not be downloaded."
_OLDER = "The test is of another version of MONAI: it fails without Plasticine, too."
_NO_TEST = "It is no test but a function of MONAI's whose name begins with test."
_SAME_BITS = "It asks for the bits of VoxelMorph's own loop; to float tolerance it passes."
_CALLS = "It counts calls of VoxelMorph's functions or PyTorch's, which are not called any more."
_ROUNDING = (
    "Ours rounds coordinates otherwise than PyTorch does: a few of them fall into another voxel."
)
_PEER_ROUNDS = "PyTorch's gradient of the affine, summed in float32, is further from the true one."

SUITES = (
    Suite(
        "monai",
        "MONAI",
        "monai",
        _MONAI,
        files=(
            "tests/networks/blocks/warp/test_warp.py",
            "tests/networks/blocks/warp/test_dvf2ddf.py",
            "tests/networks/nets/test_voxelmorph.py",
            "tests/networks/layers/test_grid_pull.py",
            "tests/networks/layers/test_affine_transform.py",
            "tests/losses/deform/test_bending_energy.py",
            "tests/losses/deform/test_diffusion_loss.py",
            "tests/losses/image_dissimilarity/test_global_mutual_information_loss.py",
            "tests/losses/image_dissimilarity/test_local_normalized_cross_correlation_loss.py",
            "tests/integration/test_reg_loss_integration.py",
            "tests/transforms/functional/test_resample.py",
            "tests/transforms/spatial/test_spatial_resampled.py",
            "tests/transforms/test_resample_backends.py",
            "tests/transforms/test_resample_to_match.py",
            "tests/transforms/test_resample_to_matchd.py",
            "tests/transforms/test_resampler.py",
            "tests/transforms/test_spatial_resample.py",
        ),
        needs=("parameterized",),
        helped_by=("DOWNLOADS",),
        known={
            "TestBendingEnergy::test_ill_shape": _OLDER,
            "TestAffineTransform::test_zoom": _OLDER,
            "TestGlobalMutualInformationLoss::test_bspline": _WANTS_DATA,
            "TestResampleToMatchd::": _WANTS_DATA,
            "::test_resampler_lazy": _NO_TEST,
            "::test_script_save": _NO_TEST,
        },
    ),
    Suite(
        "monai",
        "MONAI's extension",
        "monai",
        _MONAI,
        files=(
            "tests/networks/blocks/warp/test_warp.py",
            "tests/networks/layers/test_grid_pull.py",
        ),
        needs=("parameterized",),
        helped_by=("DOWNLOADS", "EXTENSION"),
    ),
    Suite(
        "voxelmorph",
        "VoxelMorph",
        "voxelmorph",
        "https://github.com/voxelmorph/voxelmorph",
        needs=("neurite",),
        wants_the_same_bits=True,
        known={
            "test_model_checkpoint_outputs_and_gradients": _SAME_BITS,
            "test_original_outputs_and_gradients": _SAME_BITS,
            "test_module_calls_function": _CALLS,
            "test_integration_keeps_batched_sampling": _CALLS,
            "test_module_attributes_and_grid_reuse": "It looks for a grid that a layer keeps; ours "
            "keeps none.",
        },
    ),
    Suite(
        "interpol",
        "torch-interpol",
        "torch-interpol",
        "https://github.com/balbasty/torch-interpol",
        tests="interpol/tests",
    ),
    Suite(
        "deepali",
        "deepali",
        "hf-deepali",
        "https://github.com/BioMedIA/deepali",
        needs=("torchinfo",),
    ),
    Suite(
        "fireants",
        "FireANTs",
        "fireants",
        "https://github.com/rohitrango/FireANTs",
        files=(
            "tests/test_fusedops_affinewarp.py",
            "tests/test_fusedops_crosscorrelation.py",
            "tests/test_fusedops_crosscorrelation_2d.py",
            "tests/test_fusedops_gridsample.py",
            "tests/test_fusedops_gridsample_genericlabel.py",
            "tests/test_fusedops_mutualinfo.py",
            "tests/test_fusedops_warpcompose.py",
            "tests/test_fusedops_warpcompose_2d.py",
        ),
        options=("-k", "not (fused_cc_memory or fused_mi_memory)"),
        needs=("SimpleITK", "nibabel", "tqdm", "scikit-image"),
        helped_by=("CUDA_ON_CPU",),
        known={
            "test_fused_affine_warp_3d": _PEER_ROUNDS,
            "test_fused_sampler_correctness": _ROUNDING,
            "test_fused_warp_composer_2d_correctness": _ROUNDING,
        },
    ),
)
