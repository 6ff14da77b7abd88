"""Start-up of the command lines: aim under 0.5 s for --help, beside a bare interpreter."""

import subprocess
import sys

from bench.timing import median_seconds


def main() -> None:
    """Print the table."""

    def run(*command: str) -> None:
        subprocess.run([sys.executable, *command], check=True, capture_output=True)

    bare = median_seconds(lambda: run("-c", "pass"))
    print(f"bare python            {bare:.3f} s")
    for program in ("factory", "segment"):
        seconds = median_seconds(lambda program=program: run("-m", f"{program}.cli", "--help"))
        print(f"{program} --help {' ' * (7 - len(program))}       {seconds:.3f} s")
