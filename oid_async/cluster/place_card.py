"""README.md of a place that a download past one machine has filled: the dataset card of its shards."""

from dataclasses import dataclass

from oid_async.cluster.layout import SHARDS
from oid_async.cluster.merged_tables import MergedTables
from oid_async.cluster.published import PublishedQuery
from oid_async.cluster.totals import Totals
from oid_async.formats.classes import ExportClasses
from oid_async.formats.dataset_card import CARD, PARQUET, WEBDATASET, CardFacts, changes, dataset_card, is_own_card
from oid_async.formats.hub_features import parquet_features, webdataset_features
from oid_async.objects.store import MissingError, Objects
from oid_async.options.export import ExportOptions
from oid_async.store.results import NEGATIVE


@dataclass(frozen=True, slots=True)
class PlaceCard:
    """Makes the card of a place: `classes` are those of its samples, `options` how they were made."""

    objects: Objects
    query: PublishedQuery
    classes: ExportClasses
    options: ExportOptions

    def write(self, tables: MergedTables, totals: Totals) -> None:
        """Write it among the tables, unless the place has a README.md of somebody else. Raises StorageError."""
        query = self.query
        try:
            if not is_own_card(self.objects.get(CARD)):
                return
        except MissingError:
            pass
        names = self.classes.names if {"bbox", "segmentation"} & query.kinds.keys() else ()
        has_masks = "segmentation" in query.kinds and not self.options.no_masks
        has_roles = NEGATIVE in tables.counts
        if query.format == "webdataset":
            form, features = WEBDATASET, webdataset_features(names, has_roles=has_roles, has_masks=has_masks)
        else:
            form, features = PARQUET, parquet_features(names, has_roles=has_roles)
        facts = CardFacts(
            form.within(SHARDS),
            features,
            tables.packed,
            tables.rows,
            # With a class map the tables have other names than the samples.
            tables.objects if self.options.class_map is None else None,
            sorted(tables.licenses, key=lambda url: (url is None, url)),
            query.query,
            changes(self.options, totals.left_out),
        )
        tables.file(CARD).write_text(dataset_card(facts), encoding="utf-8")
