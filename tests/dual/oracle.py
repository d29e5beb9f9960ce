"""The truth that dual passes are held to: float64 double backward through unfused attention."""

from __future__ import annotations

import torch
from torch.func import functional_call, jvp
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode


class Keep64(TorchFunctionMode):
    """Casts to float32 inside a float64 model (norms, rotary tables, the loss) are left out, so that products can
    be compared to 1e-10."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in ("matmul", "__matmul__"):  # positions come in float32 beside what was kept
            wide = any(isinstance(a, torch.Tensor) and a.dtype == torch.float64 for a in args)
            args = tuple(a.double() if wide and a.dtype == torch.float32 else a for a in args)
        first = args[0] if args else None
        if isinstance(first, torch.Tensor) and first.dtype == torch.float64:
            if getattr(func, "__name__", "") == "float":
                return first
            args = tuple(torch.float64 if a is torch.float32 else a for a in args)
            kwargs = {k: torch.float64 if a is torch.float32 else a for k, a in kwargs.items()}
        return func(*args, **kwargs)


def model_loss(model, batch):
    """The model's own loss, all of it in the model's precision."""
    with Keep64():
        output = model(**batch)
        return output[1] if isinstance(output, tuple) else output.loss


def chosen(model, only=None):
    """name -> parameter, without those whose name does not hold ``only``."""
    return {n: p for n, p in model.named_parameters() if only is None or only in n}


def directions(parameters, count, seed=0):
    """``count`` random tangents."""
    generator = torch.Generator().manual_seed(seed)
    return {
        n: torch.randn(count, *p.shape, dtype=torch.float64, generator=generator).to(p.dtype)
        for n, p in parameters.items()
    }


def accumulators(parameters, count):
    """Zeros (count, *shape)."""
    return {n: torch.zeros(count, *p.shape, dtype=torch.float64) for n, p in parameters.items()}


def hessian(model, parameters, batch, tangents, loss=model_loss):
    """H v by double backward, the loss and its derivatives along v."""
    out, moved = accumulators(parameters, next(iter(tangents.values())).shape[0]), []
    tensors = list(parameters.values())
    with sdpa_kernel(SDPBackend.MATH):
        value = loss(model, batch)
        gradient = torch.autograd.grad(value, tensors, create_graph=True)
        for k in range(next(iter(out.values())).shape[0]):
            along = sum((g * tangents[n][k]).sum() for n, g in zip(parameters, gradient, strict=True))
            moved.append(along.detach())
            rows = torch.autograd.grad(along, tensors, retain_graph=True, allow_unused=True, materialize_grads=True)
            for name, row in zip(parameters, rows, strict=True):
                out[name][k] = row
    return out, value.detach(), torch.stack(moved)


def ggn(model, parameters, batch, tangents):
    """J^T H_L J v with J the Jacobian of the logits, for a model whose loss is the mean over shifted labels."""
    inputs = {k: v for k, v in batch.items() if k != "labels"}
    out = accumulators(parameters, next(iter(tangents.values())).shape[0])
    detached = {n: p.detach() for n, p in parameters.items()}

    def logits(values):
        with Keep64():
            return functional_call(model, values, (), inputs).logits

    with sdpa_kernel(SDPBackend.MATH):
        for k in range(next(iter(out.values())).shape[0]):
            z, zt = jvp(logits, (detached,), ({n: t[k] for n, t in tangents.items()},))
            z = z.detach().requires_grad_()
            loss = F.cross_entropy(z[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
            (slope,) = torch.autograd.grad(loss, z, create_graph=True)
            (curved,) = torch.autograd.grad((slope * zt).sum(), z)
            with Keep64():
                own = model(**inputs).logits
            rows = torch.autograd.grad(own, list(parameters.values()), curved)
            for name, row in zip(parameters, rows, strict=True):
                out[name][k] = row
    return out


def relative_error(found, truth):
    """The largest relative error (2-norm) of any tensor."""
    return max(
        float((found[n].double() - truth[n].double()).norm() / truth[n].double().norm().clamp_min(1e-30)) for n in truth
    )


def text_batch(vocabulary=37, rows=2, length=11, seed=1):
    """A batch with padding on the right and labels of -100."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, vocabulary, (rows, length), generator=generator)
    labels, mask = ids.clone(), torch.ones_like(ids)
    labels[0, :3] = -100
    labels[-1, -4:] = -100
    mask[-1, -4:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
