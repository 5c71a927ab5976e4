import re
from pathlib import Path


def test_documents_name_targets_that_exist(root: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), re.MULTILINE))
    documents = [*root.glob("*.md"), *root.glob("docs/**/*.md"), root / ".ci" / "run"]
    named = {
        target
        for document in documents
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", document.read_text(), re.MULTILINE)
    }

    assert named, "no document names a target"
    assert named <= targets
