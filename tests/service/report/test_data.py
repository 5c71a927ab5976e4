from collections.abc import Iterator
from typing import get_args

from pydantic import BaseModel

from jobs.result_document import ResultDocument
from service.report.data import ReportData


def models_in(annotation: object) -> Iterator[type[BaseModel]]:
    """The models that an annotation is of or that lie within it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)


def unknown_names(
    reader: type[BaseModel], document: type[BaseModel], path: str = ""
) -> Iterator[str]:
    """Paths that the reader has and the document has not: there the page stays empty for ever."""
    for name, field in reader.model_fields.items():
        where = f"{path}{name}"
        if name not in document.model_fields:
            yield where
            continue
        inner = list(models_in(document.model_fields[name].annotation))
        for part in models_in(field.annotation):
            assert len(inner) == 1, f"{where} is a {part.__name__}, and in the document no model"
            yield from unknown_names(part, inner[0], f"{where}.")


def test_the_report_reads_nothing_that_is_in_no_document() -> None:
    assert list(unknown_names(ReportData, ResultDocument)) == []


def test_a_name_that_is_in_no_document_would_be_found() -> None:
    class Look(BaseModel):
        num_pictures: int

    class Screening(BaseModel):
        num_images: int
        looks: tuple[Look, ...] | None

    class Report(BaseModel):
        screening: Screening | None
        wieghts: dict[str, float]

    assert list(unknown_names(Report, ResultDocument)) == [
        "screening.looks.num_pictures",
        "wieghts",
    ]
