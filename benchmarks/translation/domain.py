"""What a model's training images are like, written into the card of its file.

    PLASTICINE_DATA=... python -m benchmarks.translation.domain MODEL RECIPE

``plasticine train`` writes it by itself; this is for a file from before it did. Weights stay as
they are, bit for bit. With it goes how well translations of training images keep their structure.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.translation.record import add_data_argument
from plasticine.io import describe_domain
from plasticine.nn.tensor_file import load_tensors, save_tensors
from plasticine.training.reading import load_domains
from plasticine.training.recipe import load_recipe
from plasticine.translation import Translator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("recipe")
    parser.add_argument("--every", type=int, default=12, help="translate every n-th image")
    add_data_argument(parser)
    arguments = parser.parse_args()
    images = load_domains(load_recipe(arguments.recipe), arguments.data, 0).source
    images = ((images + 1) / 2).clamp(0, 1)
    domain = describe_domain(images)
    trace = Translator.load(arguments.model).translate(images[:: arguments.every].contiguous())
    if trace.structure_agreement is not None:
        ends = torch.quantile(trace.structure_agreement, torch.tensor([0.01, 0.99]))
        domain["ranges"]["structure_agreement"] = [round(float(end), 4) for end in ends]
    tensors, metadata = load_tensors(arguments.model)
    metadata["card"]["domain"] = domain
    save_tensors(arguments.model, tensors, metadata)
    print(domain["ranges"])


if __name__ == "__main__":
    main()
