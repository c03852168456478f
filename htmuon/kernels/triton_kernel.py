"""The Triton kernel of the symmetric product. Importing this file imports triton."""

import triton
import triton.language as tl


@triton.jit
def _row_in_triangle(index):
    """The row of an entry of a lower triangle that is counted row by row: the largest r with r (r + 1) / 2 <= index."""
    row = ((tl.sqrt((8 * index + 1).to(tl.float32)) - 1) / 2).to(tl.int32)
    # The float32 root can be off by one for long triangles.
    row = tl.where(row * (row + 1) // 2 > index, row - 1, row)
    return tl.where((row + 1) * (row + 2) // 2 <= index, row + 1, row)


@triton.jit
def _tile_at(index, across, GROUP: tl.constexpr):  # noqa: N803
    """Row and column of a tile on or below the diagonal, in an order that walks GROUP rows of tiles together.

    A group first goes column by column through the rectangle left of its triangle: GROUP tiles in a row share their
    columns, and the next ones share their rows.
    """
    top = _row_in_triangle(index) // GROUP * GROUP
    local = index - top * (top + 1) // 2
    height = tl.minimum(across - top, GROUP)
    corner = local - height * top
    corner_row = _row_in_triangle(tl.maximum(corner, 0))
    inside = corner < 0
    row = tl.where(inside, top + local % height, top + corner_row)
    column = tl.where(inside, local // height, top + corner - corner_row * (corner_row + 1) // 2)
    return row, column


@triton.jit
def _finish(total, c_ptrs, here, mirrored, alpha, beta, mask_here, mask_mirrored, HAS_C: tl.constexpr):  # noqa: N803
    """Add C to a tile of sums, round once, and store it on both sides of the diagonal."""
    total = total * alpha
    if HAS_C:
        total += beta * tl.load(c_ptrs, mask=mask_here).to(tl.float32)
    result = total.to(here.dtype.element_ty)
    tl.store(here, result, mask=mask_here)
    tl.store(mirrored, result, mask=mask_mirrored)


@triton.jit
def symmetric_product_kernel(
    a_ptr,
    b_ptr,
    c_ptr,
    out_ptr,
    n,
    k,
    alpha,
    beta,
    a_matrix,
    a_row,
    a_column,
    b_matrix,
    b_row,
    b_column,
    c_matrix,
    c_row,
    c_column,
    HAS_C: tl.constexpr,  # noqa: N803
    WHOLE: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
    INNER: tl.constexpr,  # noqa: N803
    GROUP: tl.constexpr,  # noqa: N803
):
    """One tile of `alpha A B^T + beta C` on or below the diagonal, stored there and mirrored.

    `a_matrix`, `a_row` and `a_column` are the strides of A in elements, and so on; the result is contiguous. WHOLE says
    that tiles end where the matrices end.
    """
    across = tl.cdiv(n, BLOCK)
    tiles = across * (across + 1) // 2
    program = tl.program_id(0)
    # 64 bits: a stack of matrices can hold more elements than 32 count.
    matrix = (program // tiles).to(tl.int64)
    tile_row, tile_column = _tile_at(program % tiles, across, GROUP)

    rows = tile_row.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    columns = tile_column.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inner = tl.arange(0, INNER)
    a_ptrs = a_ptr + matrix * a_matrix + rows[:, None] * a_row + inner[None, :] * a_column
    b_ptrs = b_ptr + matrix * b_matrix + columns[None, :] * b_row + inner[:, None] * b_column

    total = tl.zeros((BLOCK, BLOCK), dtype=tl.float32)
    for start in range(0, k, INNER):
        if WHOLE:
            a = tl.load(a_ptrs)
            b = tl.load(b_ptrs)
        else:
            left = inner < k - start
            a = tl.load(a_ptrs, mask=(rows[:, None] < n) & left[None, :], other=0.0)
            b = tl.load(b_ptrs, mask=(columns[None, :] < n) & left[:, None], other=0.0)
        # "ieee": no TF32 for float32 factors; it says nothing for narrower ones.
        total = tl.dot(a, b, total, input_precision="ieee")
        a_ptrs += INNER * a_column
        b_ptrs += INNER * b_column

    c_ptrs = c_ptr + matrix * c_matrix + rows[:, None] * c_row + columns[None, :] * c_column
    out_ptr += matrix * n * n
    here = out_ptr + rows[:, None] * n + columns[None, :]
    mirrored = out_ptr + rows[:, None] + columns[None, :] * n
    if tile_row > tile_column:
        # Left of the diagonal all columns exist; a mask that varies along a row would split wide stores in narrow ones.
        inside = None if WHOLE else rows[:, None] < n
        _finish(total, c_ptrs, here, mirrored, alpha, beta, inside, inside, HAS_C)
    else:
        # A tile on the diagonal holds both halves, of which only the lower one is used: symmetric to the bit.
        lower = (rows[:, None] >= columns[None, :]) & (rows[:, None] < n)
        _finish(total, c_ptrs, here, mirrored, alpha, beta, lower, lower & (rows[:, None] > columns[None, :]), HAS_C)
