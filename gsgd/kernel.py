"""The compiled step of GSGD on linear problems (extra `fast`): numba, the same bits as NumPy's step in `gsgd.sgd`.

Both sum features in the same `linear.LANES` interleaved lanes, pick the first of equal scores, and add up kept
gradients in ascending order of candidates; numba contracts no multiply-add without `fastmath`. The lanes are what lets
one vector instruction do the work of four. Written as a loop of numba's own they take 1.5 times as long (20 features,
8 candidates), in strict order of features 1.3 times, and with `fastmath`, which gives other bits, as long as this.
"""

from __future__ import annotations

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from gsgd import linear

_jit = numba.njit(cache=True, nogil=True, error_model="numpy")
_squared_value = _jit(linear.squared_value)
_squared_slope = _jit(linear.squared_slope)
_hinge_value = _jit(linear.squared_hinge_value)
_hinge_slope = _jit(linear.squared_hinge_slope)
_huber_value = _jit(linear.huber_value)
_huber_slope = _jit(linear.huber_slope)
_pseudo_value = _jit(linear.pseudo_huber_value)
_pseudo_slope = _jit(linear.pseudo_huber_slope)
_relu_value = _jit(linear.smoothed_relu_value)
_relu_slope = _jit(linear.smoothed_relu_slope)

KINDS = {
    linear.squared_value: 0,
    linear.squared_hinge_value: 1,
    linear.huber_value: 2,
    linear.pseudo_huber_value: 3,
    linear.smoothed_relu_value: 4,
}
"""Which scalar losses the kernel knows, by their value function."""


_LARGEST = np.finfo(float).max


@_jit
def _scores(kind, z, c, scores):
    # One loop per loss: a test inside the loop would cost as much as the loss.
    if kind == 0:
        for j in range(len(z)):
            scores[j] = _squared_value(z[j], c)
    elif kind == 1:
        for j in range(len(z)):
            scores[j] = _hinge_value(z[j], c)
    elif kind == 2:
        for j in range(len(z)):
            scores[j] = _huber_value(z[j], c)
    elif kind == 3:
        for j in range(len(z)):
            scores[j] = _pseudo_value(z[j], c)
    else:
        for j in range(len(z)):
            scores[j] = _relu_value(z[j], c)


@_jit
def _slope(kind, z, c):
    if kind == 0:
        return _squared_slope(z, c)
    if kind == 1:
        return _hinge_slope(z, c)
    if kind == 2:
        return _huber_slope(z, c)
    if kind == 3:
        return _pseudo_slope(z, c)
    return _relu_slope(z, c)


@intrinsic
def _dot(typing_context, features, row, w):
    """<features[row], w>, lane t % LANES adding up feature t; the number of features is a multiple of LANES.

    Written in LLVM's own vectors because neither of its vectorisers takes such a sum without leave to reorder it.
    """

    if features.layout != "C" or w.layout != "C":
        raise numba.TypingError("_dot walks through memory: features and w must be C-contiguous")

    def codegen(context, builder, signature, args):
        matrix = context.make_array(signature.args[0])(context, builder, value=args[0])
        vector = context.make_array(signature.args[2])(context, builder, value=args[2])
        width = cgutils.unpack_tuple(builder, vector.shape, 1)[0]
        lanes = ir.VectorType(ir.DoubleType(), linear.LANES)
        index = context.cast(builder, args[1], signature.args[1], types.intp)
        first = builder.gep(matrix.data, [builder.mul(index, width)])
        total = cgutils.alloca_once_value(builder, ir.Constant(lanes, [0.0] * linear.LANES))
        step = ir.Constant(width.type, linear.LANES)
        with cgutils.for_range_slice(builder, ir.Constant(width.type, 0), width, step, inc=True) as (t, _):
            x, y = (
                # Rows start at a multiple of 8 bytes; numpy promises no more.
                builder.load(builder.bitcast(builder.gep(start, [t]), lanes.as_pointer()), align=8)
                for start in (first, vector.data)
            )
            builder.store(builder.fadd(builder.load(total), builder.fmul(x, y)), total)
        sums = builder.load(total)
        part = [builder.extract_element(sums, ir.Constant(ir.IntType(32), lane)) for lane in range(linear.LANES)]
        return builder.fadd(builder.fadd(part[0], part[1]), builder.fadd(part[2], part[3]))

    return types.float64(features, row, w), codegen


@_jit
def _mark_top_k(scores, k, kept):
    """Mark the k largest scores, of equal ones the earlier."""
    B = len(scores)
    for j in range(B):
        kept[j] = k == B
    if k == B:
        return
    for _ in range(k):
        best = -1
        for j in range(B):
            if not kept[j] and (best < 0 or scores[j] > scores[best]):
                best = j
        kept[best] = True


@_jit
def advance(features, offsets, kind, c, w, total, candidates, factors, k, eta):
    """Run `steps` steps of GSGD for `runs` runs, in place.

    Args:
        features, offsets: (n, d) and (n,); d is a multiple of `linear.LANES`, padded with zeros.
        kind, c: which scalar loss, and its parameter.
        w, total: (runs, d), the iterates and the sum of the iterates before each step; both are updated.
        candidates: (runs, steps, B) atoms, unsigned (no index then counts from the end).
        factors: (runs, steps, B) factors of the losses, or (0, 0, 0) for none.
        k: how many to keep.
        eta: (steps,) step sizes.

    Returns:
        -1, or the first step at which a score was not finite (the caller names the rule).
    """
    runs, steps, B = candidates.shape
    d = features.shape[1]
    noisy = factors.size > 0
    z = np.empty(B)
    scores = np.empty(B)
    kept = np.empty(B, np.bool_)
    gradient = np.empty(d)
    for run in range(runs):
        iterate, sums = w[run], total[run]
        for step in range(steps):
            atoms = candidates[run, step]
            # Read once: inside a loop that writes `iterate` the compiler would have to read it again.
            rate = eta[step]
            for t in range(d):
                sums[t] += iterate[t]
            for j in range(B):
                z[j] = _dot(features, atoms[j], iterate) - offsets[atoms[j]]  # type: ignore[call-arg]
            _scores(kind, z, c, scores)
            if noisy:
                for j in range(B):
                    scores[j] *= factors[run, step, j]
            for j in range(B):
                # False for NaN and for infinity.
                if not scores[j] <= _LARGEST:
                    return step
            if k == 1:
                best, largest = 0, scores[0]
                for j in range(1, B):
                    # Strictly larger: of equal scores the earlier candidate stays, as in select_top_k.
                    if scores[j] > largest:
                        best, largest = j, scores[j]
                x = features[atoms[best]]
                slope = _slope(kind, z[best], c)
                for t in range(d):
                    iterate[t] -= rate * (slope * x[t])
                continue
            _mark_top_k(scores, k, kept)
            first = True
            for j in range(B):
                if kept[j]:
                    x = features[atoms[j]]
                    slope = _slope(kind, z[j], c)
                    for t in range(d):
                        gradient[t] = slope * x[t] if first else gradient[t] + slope * x[t]
                    first = False
            for t in range(d):
                iterate[t] -= rate * (gradient[t] / k)
    return -1
