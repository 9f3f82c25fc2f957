"""Every materialization says which code made it."""

from collections.abc import Iterator

import pytest
import taxi_shared  # noqa: F401  (stamps materializations)
from dagster import AssetExecutionContext, MaterializeResult, StaticPartitionsDefinition, asset, materialize

TWO = StaticPartitionsDefinition(["a", "b"])


@asset
def whole() -> None: ...


@asset(partitions_def=TWO)
def parted(context: AssetExecutionContext) -> Iterator[MaterializeResult[None]]:
    context.add_asset_metadata({"rows": 1}, partition_key=context.partition_key)
    yield MaterializeResult(metadata={"own": "value"})


def test_it_is_in_the_metadata_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODELOC_VERSION", "1a2b3c4-5d6e7f80")
    monkeypatch.setenv("CODELOC_IMAGE", "sha256:1234")
    for result in (materialize([whole]), materialize([parted], partition_key="b")):
        (made,) = result.get_asset_materialization_events()
        metadata = {label: value.value for label, value in made.materialization.metadata.items()}
        assert metadata["codeloc/version"] == "1a2b3c4-5d6e7f80"
        assert metadata["codeloc/image_id"] == "sha256:1234"
    assert (metadata["own"], metadata["rows"]) == ("value", 1)


def test_outside_of_a_platform_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CODELOC_VERSION", raising=False)
    monkeypatch.delenv("CODELOC_IMAGE", raising=False)
    (made,) = materialize([whole]).get_asset_materialization_events()
    assert not [label for label in made.materialization.metadata if label.startswith("codeloc/")]
