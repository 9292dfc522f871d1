"""The tenants' records in the embedded store: rows of the catalogue, beside each of which a file may lie."""

from __future__ import annotations

from dataclasses import replace

from ragkeep_retriever.sqlite_files import Files, file_name, name_of, row, rows, transaction
from ragkeep_retriever.tenant_records import check_takes_documents, dump, going, inactive, load, new_record, tombstone, unknown
from ragkeep_retriever.values import TenantRecord, Tenants

_COUNT = "SELECT collection, count(*) FROM documents GROUP BY collection ORDER BY collection"


class SqliteTenants:
    """Knows tenants; its methods run in a thread of `Files`."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def ensure(self, name: str) -> tuple[TenantRecord, bool]:
        """See the port."""
        found = load(self._text(name))
        if found is not None:
            return found, False
        with transaction(self._files.catalogue()):
            found = load(self._text(name))
            if found is not None:
                return found, False
            made = new_record(name)
            self._write(name, dump(made))
            return made, True

    def get(self, name: str) -> TenantRecord:
        """See the port."""
        text = self._text(name)
        found = load(text)
        if found is not None:
            return found
        if text is None and self._files.tenant(name) is not None:
            return self.ensure(name)[0]
        raise unknown(name)

    def all(self, count: bool) -> Tenants:
        """See the port."""
        files = set(self._files.names())
        texts = dict(rows(self._files.catalogue(), "SELECT name, record FROM tenants"))
        for name in sorted(filter(None, map(name_of, files))):
            if name not in texts:
                texts[name] = dump(self.ensure(name)[0])
        records = {name: found for name, text in texts.items() if (found := load(text)) is not None}
        counted = {
            name: self._counts(name) if count and record.deleting is None else {} for name, record in sorted(records.items())
        }
        unnamed = len(files - {file_name(name) for name in texts})
        return Tenants([(records[name], counts) for name, counts in counted.items()], unnamed)

    def set_active(self, name: str, active: bool) -> TenantRecord:
        """See the port."""
        self.get(name)
        with transaction(self._files.catalogue()):
            found = load(self._text(name))
            if found is None:
                raise unknown(name)
            if found.deleting is not None:
                raise inactive(found)
            changed = replace(found, active=active)
            self._write(name, dump(changed))
            return changed

    def delete(self, name: str) -> dict[str, int]:
        """See the port. Alone, so no put is under way."""
        text = self._text(name)
        if text is not None and load(text) is None:
            return {}
        record = self.get(name)
        # What an attempt before counted is all there was; its file may be there by half.
        record = record if record.deleting is not None else going(record, self._counts(name))
        self._write(name, dump(record))
        self._files.remove(name)
        self._write(name, tombstone(name))
        self._files.forget_what_was_overwritten()
        return dict(record.deleting or {})

    def check_takes_documents(self, tenant: str, record: bytes) -> None:
        """Raises TenantInactive, TenantUnknown."""
        check_takes_documents(self._text(tenant), tenant, record)

    def _counts(self, tenant: str) -> dict[str, int]:
        name = file_name(tenant)
        if not (self._files.folder / f"{name}.db").exists():
            return {}
        with self._files.passing(name) as file:
            return dict(rows(file, _COUNT))

    def _text(self, name: str) -> str | None:
        found = row(self._files.catalogue(), "SELECT record FROM tenants WHERE name = ?", (name,))
        return str(found[0]) if found else None

    def _write(self, name: str, text: str) -> None:
        self._files.catalogue().execute("INSERT OR REPLACE INTO tenants VALUES (?, ?)", (name, text))
