"""The size of the source per package: files, functions and modules that only one other imports.

    python tools/size_report.py [ROOT]

A report, not a gate: large files and modules with one importer are where to look first for what can be split or
joined. Python is counted with ``ast``; of C++ only the lines of files are.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

# A folder of sources, and the folder that imports name its modules from (None: nothing imports them).
PACKAGES = (
    ("backend/stub/ernie_wire", "backend/stub"),
    ("backend/stub/ernie_stub", "backend/stub"),
    ("backend/ernie_backend", "backend"),
    ("backend/ernie_cli", "backend"),
    ("openai_frontend/ernie_frontend", "openai_frontend"),
    ("kernels/ernie_kernels", "kernels"),
    ("kernels/cpu", None),
    ("tools", None),
    ("benchmarks", None),
    ("tests", None),
)
LARGE_FILE = 300
SMALL_MODULE = 60


@dataclass
class Sizes:
    """Lines of every file and of every function, each with its name."""

    files: dict[str, int] = field(default_factory=dict)
    functions: list[int] = field(default_factory=list)

    def add(self, path: Path, name: str) -> None:
        """Count a file."""
        text = path.read_text(encoding="utf-8")
        self.files[name] = len(text.splitlines())
        if path.suffix == ".py":
            self.functions.extend(function_lines(ast.parse(text)))


def function_lines(tree: ast.Module) -> Iterator[int]:
    """Yield the lines of every function and method, its docstring included and its decorators not."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield (node.end_lineno or node.lineno) - node.lineno + 1


def sources(folder: Path) -> list[Path]:
    """Return the Python and C++ files below a folder."""
    return sorted(path for path in folder.rglob("*") if path.suffix in (".py", ".cpp", ".hpp"))


def module_name(path: Path) -> str:
    """Return the dotted name of a module, from its path below the folder that imports start at."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(tree: ast.Module) -> Iterator[str]:
    """Yield what is imported: modules, and names of modules, of which some are modules themselves."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importers(root: Path) -> dict[str, set[str]]:
    """Return, for every module of the packages, the modules that import it; tests do not count."""
    files = {
        module_name(path.relative_to(root / top)): path
        for folder, top in PACKAGES
        if top
        for path in sources(root / folder)
    }
    found: dict[str, set[str]] = {name: set() for name in files}
    for name, path in files.items():
        for imported in set(imported_names(ast.parse(path.read_text(encoding="utf-8")))) & files.keys():
            found[imported].add(name)
    return found


def spread(values: Sequence[int]) -> str:
    """Return the median, the 90th percentile and the largest of some numbers, or a dash for none."""
    if not values:
        return "-"
    ordered = sorted(values)
    return f"{median(ordered):.0f} / {ordered[(len(ordered) - 1) * 9 // 10]} / {ordered[-1]}"


def table(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as columns: the first aligned to the left, the others to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in cells
    )


def report(root: Path) -> str:
    """Return the whole report of a source tree."""
    found = importers(root)
    joinable, large, rows = [], [], []
    for folder, top in PACKAGES:
        sizes = Sizes()
        for path in sources(root / folder):
            sizes.add(path, str(path.relative_to(root)))
        prefix = Path(folder).name
        single = [name for name in found if top and name.split(".")[0] == prefix and len(found[name]) == 1]
        large += [(name, lines) for name, lines in sizes.files.items() if lines > LARGE_FILE]
        for name in single:
            path = Path(top or "", *name.split("."))
            lines = sizes.files.get(f"{path}.py", SMALL_MODULE)  # a package is not joined to its importer
            joinable += [(name, lines)] if lines < SMALL_MODULE else []
        rows.append(
            (
                folder,
                len(sizes.files),
                sum(sizes.files.values()),
                spread(list(sizes.files.values())),
                len(sizes.functions) or "-",
                spread(sizes.functions),
                sum(lines > LARGE_FILE for lines in sizes.files.values()),
                len(single) if top else "-",
            )
        )
    header = ("package", "files", "lines", "of a file*", "functions", "of a function*", ">300", "one importer")
    return "\n".join(
        (
            table([header, *rows]),
            "* lines: median / 90th percentile / largest",
            f"files of more than {LARGE_FILE} lines: " + listed(large),
            f"modules of less than {SMALL_MODULE} lines that only one other imports: " + listed(joinable),
        )
    )


def listed(named: Sequence[tuple[str, int]]) -> str:
    """Return names with their lines, the longest first."""
    return ", ".join(f"{name} {lines}" for name, lines in sorted(named, key=lambda each: -each[1])) or "none"


def main() -> None:
    """Print the report of the tree given, or of this one."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1]
    sys.stdout.write(report(root) + "\n")


if __name__ == "__main__":
    main()
