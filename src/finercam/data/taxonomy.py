"""Taxonomic names: prompts for BioCLIP and its kin, relatives as rivals, and classes grouped by rank."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finercam.data.files import read_table
from finercam.errors import FinerCAMError, suggest

__all__ = ["RANKS", "STYLES", "Taxonomy", "read_taxonomy"]

RANKS = ("kingdom", "phylum", "class", "order", "family", "genus", "species")
STYLES = ("taxonomic", "scientific", "common", "taxonomic+common", "scientific+common")
"""The text types that BioCLIP was trained on (Stevens et al., CVPR 2024, Table 3)."""

COMMON = ("common_name", "common", "vernacular_name", "vernacularName")


@dataclass(frozen=True)
class Taxonomy:
    """Species by scientific name, each with its seven ranks and its common name ("" where there is none).

    >>> birds = Taxonomy.of([
    ...     {"family": "Paridae", "genus": "Poecile", "species": "Poecile atricapillus", "common_name": "Black-capped Chickadee"},
    ...     {"family": "Paridae", "genus": "Poecile", "species": "Poecile carolinensis", "common_name": "Carolina Chickadee"},
    ...     {"family": "Paridae", "genus": "Baeolophus", "species": "Baeolophus bicolor", "common_name": "Tufted Titmouse"},
    ... ])
    >>> birds.relatives("Carolina Chickadee", "genus")
    ['Poecile atricapillus']
    >>> birds.prompts("taxonomic+common")["Baeolophus bicolor"]
    'Paridae Baeolophus bicolor with common name Tufted Titmouse'
    >>> birds.groups("genus")["Poecile"]
    ['Poecile atricapillus', 'Poecile carolinensis']
    """

    lineages: Mapping[str, tuple[str, ...]]
    common: Mapping[str, str]

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, str | None]]) -> Taxonomy:
        """From rows with the columns of RANKS and a common name; ranks that are not known may be empty or missing.

        `species` is a binomial or the second half of one. Rows without genus or species are left out, and equal rows
        count once. Raises FinerCAMError if nothing is left, or one species has two lineages.
        """
        lineages: dict[str, tuple[str, ...]] = {}
        common: dict[str, str] = {}
        for row in rows:
            lineage = tuple((row.get(rank) or "").strip() for rank in RANKS)
            genus, epithet = lineage[5], lineage[6].removeprefix(lineage[5]).strip()
            if not genus or not epithet:
                continue
            lineage, name = (*lineage[:6], epithet), f"{genus} {epithet}"
            if lineages.setdefault(name, lineage) != lineage:
                raise FinerCAMError(
                    f"species {name!r} has two lineages, {' '.join(lineages[name])} and {' '.join(lineage)}"
                )
            common[name] = common.get(name) or next((given for key in COMMON if (given := row.get(key))), "") or ""
        if not lineages:
            raise FinerCAMError(f"no row has a genus and a species; expected the columns {', '.join(RANKS)}")
        return cls(lineages, common)

    @property
    def species(self) -> list[str]:
        """Scientific names, in the order of the rows."""
        return list(self.lineages)

    def name(self, given: str) -> str:
        """The scientific name of a species given by its scientific or common name, ignoring case."""
        wanted = given.strip().casefold()
        found = [n for n in self.lineages if wanted in (n.casefold(), self.common[n].casefold())]
        if len(found) == 1:
            return found[0]
        if found:
            raise FinerCAMError(
                f"species {given!r} is the common name of {', '.join(found)}; give the scientific one"
            )
        known = [*self.lineages, *filter(None, self.common.values())]
        raise FinerCAMError(f"species {given!r} is not in the taxonomy.{suggest(given, known)}")

    def prompts(self, style: str = "taxonomic+common", species: Sequence[str] | None = None) -> dict[str, str]:
        """A text for each species, for `ZeroShotClassifier`, in one of STYLES.

        Where there is no common name, "common" gives the scientific name, and the others leave it out.
        """
        if style not in STYLES:
            raise FinerCAMError(f"style={style!r}: expected one of {', '.join(STYLES)}")
        names = self.species if species is None else [self.name(one) for one in species]
        return {name: self._text(name, style) for name in names}

    def relatives(self, species: str, rank: str = "genus") -> list[str]:
        """The other species of the same genus, family or another rank: rivals for `against=`."""
        name, at = self.name(species), _rank(rank)
        own = self.lineages[name][: at + 1]
        return [other for other, lineage in self.lineages.items() if other != name and lineage[: at + 1] == own]

    def groups(self, rank: str) -> dict[str, list[str]]:
        """The species of each taxon of a rank; taxa without a name are left out."""
        at, found = _rank(rank), {}
        for name, lineage in self.lineages.items():
            if lineage[at]:
                found.setdefault(name if rank == "species" else lineage[at], []).append(name)
        return found

    def _text(self, name: str, style: str) -> str:
        base, _, addition = style.partition("+")
        common = self.common[name]
        if base == "common":
            return common or name
        text = " ".join(filter(None, self.lineages[name])) if base == "taxonomic" else name
        return f"{text} with common name {common}" if addition and common else text


def read_taxonomy(path: str | os.PathLike[str]) -> Taxonomy:
    """A taxonomy from a CSV or Parquet file with the columns `kingdom` to `species`, as TreeOfLife's catalogs have.

    Other columns (`uuid`, …) are ignored. Raises FinerCAMError for a file that cannot be read or lacks the columns
    genus and species.
    """
    file = Path(path)
    if file.suffix.lower() != ".parquet":
        return Taxonomy.of(read_table(file, ("genus", "species"), "\t" if file.suffix.lower() == ".tsv" else ","))
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        there = pq.read_schema(file).names
        if missing := [name for name in ("genus", "species") if name not in there]:
            raise FinerCAMError(f"{file} lacks the column {', '.join(missing)}; it has {', '.join(there)}")
        table = pq.read_table(file, columns=[name for name in (*RANKS, *COMMON) if name in there])
    except (OSError, pa.ArrowException) as error:
        raise FinerCAMError(f"{file} cannot be read as Parquet: {error}") from error
    return Taxonomy.of(table.group_by(table.column_names).aggregate([]).to_pylist())


def _rank(rank: str) -> int:
    if rank not in RANKS:
        raise FinerCAMError(f"rank={rank!r}: expected one of {', '.join(RANKS)}.{suggest(rank, RANKS)}")
    return RANKS.index(rank)
