"""Print the README's table of the example prompts from the figures of their training runs."""

import json
import math
from pathlib import Path


def main() -> None:
    """Print one row a prompt."""
    print("| prompt | classes | training images | plain | prompted | gain | best epoch |")
    print("|---|---|---|---|---|---|---|")
    for file in sorted(Path(__file__).parent.glob("*.json")):
        run = json.loads(file.read_text())
        test = run["figures"]["test"]
        gain = test["prompted"] - test["plain"]
        # An upper bound of the standard error: the two accuracies are on the same images.
        variance = sum(a * (1 - a) for a in (test["plain"], test["prompted"]))
        error = math.sqrt(variance / test["num_images"])
        print(
            f"| {run['name']} | {len(run['classes'])} | {run['train_images']} "
            f"| {test['plain']:.3f} | {test['prompted']:.3f} "
            f"| {gain:+.3f} ± {1.96 * error:.3f} | {run['best_epoch']} |"
        )


if __name__ == "__main__":
    main()
