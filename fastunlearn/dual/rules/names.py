"""Names of torch functions that share one rule."""

from __future__ import annotations

__all__ = [
    "ALIKE",
    "ASKED",
    "CASTS",
    "LINEAR",
    "LINEAR_VIEWS",
    "PLAIN",
    "PLAIN_PROPERTIES",
    "PROPERTIES",
    "REFUSED",
    "RESHAPES",
    "names",
]


def names(text: str) -> frozenset[str]:
    """The words of ``text``."""
    return frozenset(text.split())


#: Questions about shape, dtype and place.
ASKED = names(
    """size dim stride numel nelement is_contiguous is_floating_point is_complex storage_offset get_device element_size
    ndimension __len__ __hash__ result_type can_cast is_tensor is_storage is_same_size is_signed is_pinned is_inference
    is_neg is_conj"""
)
PROPERTIES = names(
    """shape dtype device ndim layout is_cuda is_cpu is_sparse is_quantized is_meta is_mps is_xpu names
    itemsize nbytes output_nr is_nested is_mkldnn is_sparse_csr"""
)

#: Functions without a derivative: the result is a constant.
PLAIN = names(
    """detach item tolist __bool__ __float__ __int__ __index__ __contains__ numpy argmax argmin argsort eq ne lt le gt
    ge isnan isinf isfinite isclose allclose equal nonzero sign floor ceil round trunc bool int long short byte
    zeros_like ones_like empty_like full_like new_zeros new_ones new_empty new_full
    new_tensor new bincount histc count_nonzero any all logical_and logical_or logical_not
    searchsorted bucketize __repr__ __str__ __format__ __array__ is_nonzero __dlpack__"""
)
PLAIN_PROPERTIES = names("data grad _grad grad_fn _base _version")

#: Functions that cannot be followed.
REFUSED = names(
    """backward register_hook retain_grad set_ resize_ data_ptr untyped_storage storage share_memory_
    __deepcopy__ __reduce_ex__ resize_as_ apply_ map_ t_ transpose_ swapaxes_ squeeze_ unsqueeze_ as_strided_"""
)

#: Other views of the same elements in the same order.
RESHAPES = names("view reshape flatten unflatten unsqueeze squeeze view_as reshape_as ravel")

#: Changes of dtype (or device).
CASTS = names("to float double half bfloat16 type type_as")

#: Functions that take tensors of one dtype alone.
ALIKE = names(
    """linear bilinear matmul __matmul__ __rmatmul__ mm bmm mv dot inner addmm addbmm baddbmm addmv einsum tensordot
    conv1d conv2d conv_transpose1d"""
)

#: Linear functions of one value that may be views of it.
LINEAR_VIEWS = names(
    """permute movedim moveaxis t T mT H mH adjoint expand_as broadcast_to narrow select diagonal unfold
    view_as_real view_as_complex real imag"""
)
#: Other linear functions of their first argument.
LINEAR = names(
    """sum mean cumsum repeat repeat_interleave tile clone index_select gather take_along_dim roll flip tril triu
    trace diag_embed fliplr flipud rot90"""
)
