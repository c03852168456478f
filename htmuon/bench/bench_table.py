"""A bench for the reader: the table, and the lines below it."""

from htmuon.bench.bench_result import BenchResult, Measured


def heads(result: BenchResult) -> list[str]:
    """The headings of the columns."""
    conditions = [column if column.isalpha() else f"err {column.replace('e+0', 'e')}" for column in result.columns]
    return ["candidate", "ms/step", "ratio", *conditions]


def rows(result: BenchResult) -> list[list[str]]:
    """The cells of the table."""
    return [
        [
            f"{measured.name} ({measured.picks})" if measured.picks else measured.name,
            milliseconds(measured.median_seconds),
            f"{measured.ratio:.2f}x",
            *(_error(measured, column) for column in result.columns),
        ]
        for measured in result.measured
    ]


def milliseconds(seconds: float) -> str:
    """Three digits, without an exponent.

    Example:
        >>> milliseconds(12.3456), milliseconds(0.0123456), milliseconds(2.5e-5)
        ('12346', '12.3', '0.025')
    """
    value = 1e3 * seconds
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _error(measured: Measured, column: str) -> str:
    error = measured.worst(column)
    return "-" if error is None else f"{error:.1e}"


def title(result: BenchResult) -> str:
    """What was measured, where and with what."""
    where = result.conditions
    versions = ", ".join(f"{name} {version}" for name, version in {"torch": where["torch"], **result.versions}.items())
    return (
        f"One optimizer step over {result.matrices}, {result.dtype}\n"
        f"{where['device']}, {where['threads']} threads, {where['date']}; {versions}"
    )


def below(result: BenchResult) -> list[str]:
    """The lines below the table."""
    lines = [
        f"ms/step: median over rounds. ratio: median over rounds of the time by that of {result.baseline} in the same "
        "round.",
        "Errors: relative Frobenius norm against a float64 SVD, of the worst shape; htmuon's against its own power, "
        "other libraries' against the polar factor.",
        *result.notes,
        *(f"{name} failed: {reason}" for name, reason in result.failed.items()),
    ]
    if result.missing:
        lines.append(f"Not installed: {', '.join(result.missing)} (pip install them to see them here).")
    return lines
