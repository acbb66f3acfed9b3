"""A published network as ONNX, with its card and self-tests: `python -m export NETWORK --weights FILE -o DIR`."""

import argparse
from pathlib import Path

import torch

from export import package, to_onnx, whole
from export.catalogue import NETWORKS
from export.spec import read_statistics


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m export", description=__doc__)
    parser.add_argument("network", choices=sorted(NETWORKS))
    weights = parser.add_mutually_exclusive_group(required=True)
    weights.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="a checkpoint in the published layout (iQSM: the folder of its parts)",
    )
    weights.add_argument("--random", type=int, metavar="SEED", help="random weights of the true layout")
    parser.add_argument("--norm", type=Path, metavar="FILE", help="statistics published beside the weights: .mat, .npz")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=NUMBER[,NUMBER]", help="one statistic")
    parser.add_argument("--whole", choices=("dft", "matmul"), help="dipole steps in the graph too, for comparison")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR")
    given = parser.parse_args()

    spec = NETWORKS[given.network]
    torch.manual_seed(given.random or 0)
    net = spec.build()
    if given.weights is None:
        to_onnx.random_weights(net, given.random)
        found = dict(spec.neutral)
    else:
        found = dict(spec.load(given.weights, net))
    if given.norm is not None:
        found |= read_statistics(given.norm, spec.statistics)
    for text in given.set:
        name, _, numbers = text.partition("=")
        values = [float(n) for n in numbers.split(",")]
        found[name] = values[0] if len(values) == 1 else values
    missing = sorted(set(spec.neutral) - set(found))
    if missing:
        parser.error(f"{given.network} needs {', '.join(missing)}: give --norm FILE, or --set NAME=NUMBER")
    draft = spec.card(found)
    if given.whole is not None:
        net, draft = whole.whole(net, draft, given.whole)
    card = package.write(given.out, net, draft)
    count = sum(p.numel() for p in net.parameters())
    print(f"{given.out / card.file.name}: {card.task}, {count:,} parameters, equal to torch at two sizes")


if __name__ == "__main__":
    main()
