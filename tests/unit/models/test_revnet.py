"""Reversible stages: the gradients of plain autograd, from recomputed activations."""

import copy
import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from bigbigan.models.revnet import BottleneckBranch, ReversibleStage, RevNet
from reproduction.benchmark import reversible
from reproduction.common import Script


def branch(width):
    """The branch of the peers' benchmark: BN, ReLU, 3×3 conv, twice."""
    parts = (nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1, bias=False))
    return nn.Sequential(*parts, *copy.deepcopy(parts))


def twins(branches, dtype=torch.float32):
    """The same stage twice: recomputing, and as plain autograd."""
    ours = ReversibleStage(branches).to(dtype)
    plain = copy.deepcopy(ours)
    plain.recompute = False
    return ours, plain


def gradients(stage, x, weight):
    x = x.clone().requires_grad_()
    (stage(x) * weight).sum().backward()
    return {"input": x.grad} | {name: p.grad for name, p in stage.named_parameters()}


def worst(ours, plain):
    return max(((ours[k] - plain[k]).norm() / plain[k].norm().clamp(min=1e-30)).item() for k in plain)


@pytest.mark.parametrize(("blocks", "width", "kind"), [(1, 8, branch), (6, 16, BottleneckBranch), (64, 8, branch)])
def test_gradients_and_statistics_are_those_of_plain_autograd(blocks, width, kind):
    torch.manual_seed(0)
    for dtype, bound in ((torch.float64, 1e-8), (torch.float32, 1e-3)):
        ours, plain = twins([kind(width) for _ in range(blocks)], dtype)
        x = torch.randn(8, 2 * width, 8, 8, dtype=dtype)
        weight = torch.randn_like(x)
        with torch.no_grad():
            torch.testing.assert_close(copy.deepcopy(ours)(x), copy.deepcopy(plain)(x), rtol=0, atol=0)
        assert worst(gradients(ours, x, weight), gradients(plain, x, weight)) < bound
        for (name, a), b in zip(ours.named_buffers(), plain.buffers(), strict=True):
            assert torch.equal(a, b), name
        assert ours.branches[0].get_submodule("norm1" if kind is BottleneckBranch else "0").num_batches_tracked == 1


def test_float64_stream_is_what_bounds_the_drift(monkeypatch):
    import bigbigan.models.revnet as revnet

    torch.manual_seed(0)
    stage = ReversibleStage([branch(16) for _ in range(64)])
    for m in stage.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.constant_(m.weight, 3)  # as in trained networks: the branches outweigh the stream
    x = torch.randn(8, 32, 8, 8)
    weight = torch.randn_like(x)

    def drift():
        ours, plain = copy.deepcopy(stage), copy.deepcopy(stage)
        plain.recompute = False
        return worst(gradients(ours, x, weight), gradients(plain, x, weight))

    bounded = drift()
    assert bounded < 1e-5
    monkeypatch.setattr(revnet, "stream", lambda x: tuple(half.clone() for half in x.chunk(2, dim=1)))
    assert drift() > 10 * bounded  # how much more depends on the processor


def test_nothing_but_the_output_is_kept():
    stage, plain = twins([BottleneckBranch(32) for _ in range(8)])
    x = torch.randn(4, 64, 8, 8, requires_grad=True)
    kept = {}
    for net in (stage, plain):
        kept[net] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, k=kept[net]: k.append(t.nbytes) or t, lambda t: t):
            net(x)
    assert sum(kept[stage]) == 2 * x.nbytes  # the two halves of the output, in float64
    assert sum(kept[plain]) > 5 * sum(kept[stage])


def test_dropout_is_refused():
    with pytest.raises(ValueError, match="dropout"):
        ReversibleStage([torch.nn.Dropout(0.5)])


def test_backward_pass_uses_autocast_of_the_forward_pass():
    torch.manual_seed(0)
    ours, plain = twins([BottleneckBranch(16) for _ in range(4)])
    x = torch.randn(8, 32, 8, 8)
    kinds = []
    ours.branches[0].conv2.register_forward_hook(lambda module, inputs, out: kinds.append(out.dtype))
    results = []
    for net in (ours, plain):
        y = x.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = net(y)
        out.float().square().sum().backward()
        results.append({"input": y.grad} | {n: p.grad for n, p in net.named_parameters()})
    assert kinds == [torch.bfloat16] * 2
    assert worst(*results) < 0.05


def test_frozen_parameters_and_inputs_get_no_gradient():
    stage = ReversibleStage([BottleneckBranch(16) for _ in range(2)])
    stage.branches[0].requires_grad_(False)
    stage(torch.randn(4, 32, 4, 4)).sum().backward()
    assert all(p.grad is None for p in stage.branches[0].parameters())
    assert all(p.grad is not None for p in stage.branches[1].parameters())


def test_a_graph_can_be_gone_through_twice():
    stage = ReversibleStage([BottleneckBranch(16) for _ in range(2)])
    x = torch.randn(4, 32, 4, 4, requires_grad=True)
    loss = stage(x).square().sum()
    first = torch.autograd.grad(loss, x, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(loss, x)[0], first, rtol=0, atol=0)


def test_torch_compile_keeps_the_result():
    torch.manual_seed(0)
    net = RevNet(3, (16, 32), (2, 2))
    twin = copy.deepcopy(net)
    compiled = torch.compile(net, backend="aot_eager")
    x = torch.randn(4, 3, 16, 16)
    for n in (compiled, twin):
        n(x).square().sum().backward()
    for (name, a), b in zip(net.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.long
def test_data_parallel_wrapper_averages_gradients(tmp_path):
    """Two processes with half a batch each agree with each other, and with the mean of the two gradients."""
    script = tmp_path / "ddp.py"
    script.write_text(DDP)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # more than there are cores would wait for one another
    command = [sys.executable, script, tmp_path / "store"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]


DDP = """
import sys, copy, torch
import torch.distributed as dist, torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel
from bigbigan.models.revnet import RevNet

def run(rank, store):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.manual_seed(0)
    net = RevNet(3, (16, 32), (2, 2))
    alone = [copy.deepcopy(net) for _ in range(2)]
    parts = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1)).chunk(2)
    for n, part in zip(alone, parts):
        n(part).square().sum().backward()
    wrapped = DistributedDataParallel(net, broadcast_buffers=False)
    wrapped(parts[rank]).square().sum().backward()
    for p, a, b in zip(net.parameters(), *(n.parameters() for n in alone)):
        torch.testing.assert_close(p.grad, (a.grad + b.grad) / 2, rtol=1e-3, atol=1e-4)
    dist.destroy_process_group()

if __name__ == "__main__":
    mp.spawn(run, (sys.argv[1],), nprocs=2)
"""


def test_between_stages_the_map_halves_with_zero_padding():
    net = RevNet(3, (16, 32), (1, 1)).eval()
    seen = []
    net.stages[1].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        net(torch.randn(2, 3, 8, 8))
    assert seen[0].shape == (2, 32, 4, 4)
    assert (seen[0][:, :8] == 0).all()
    assert (seen[0][:, -8:] == 0).all()
    assert seen[0][:, 8:-8].any()


def test_every_branch_sees_what_the_earlier_ones_made():
    """Without the swap half of the channels would pass a stage untouched (peers: effective depth 1)."""
    stage = ReversibleStage([BottleneckBranch(16) for _ in range(3)]).eval()
    x = torch.randn(2, 32, 4, 4)
    y = stage(x)
    assert not torch.equal(y[:, 16:], x[:, 16:])
    assert not torch.equal(y[:, :16], x[:, :16])
    with torch.no_grad():
        stage.branches[0].conv3.weight.zero_()
    changed = stage(x) != y
    assert changed[:, 16:].any()
    assert changed[:, :16].any()


@pytest.mark.slow
def test_memory_is_flat_in_depth_and_time_close_to_plain():
    """The benchmark's own points, with room for a noisy machine; its figures are in results/reversible.jsonl."""
    script = Script(reversible.__spec__, reversible.__doc__)

    def point(blocks, recompute):
        return json.loads(script.in_subprocess("--point", str(blocks), str(recompute)))

    shallow, deep, plain = point(4, True), point(16, True), point(16, False)
    assert deep["extra_memory_mib"] < shallow["extra_memory_mib"] + 60
    assert deep["extra_memory_mib"] < plain["extra_memory_mib"] / 4
    assert deep["forward_backward_seconds"] < 1.6 * plain["forward_backward_seconds"]
