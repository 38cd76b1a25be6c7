-- Orders held for machines that are away, and what machines say of their journals.
ALTER TABLE machines ADD COLUMN journal_seq BIGINT NOT NULL DEFAULT 0;
ALTER TABLE machines ADD COLUMN journal_head TEXT NOT NULL DEFAULT '';
ALTER TABLE machines ADD COLUMN alarm TEXT NOT NULL DEFAULT '';
ALTER TABLE machines ADD COLUMN sealed_to BLOB;

CREATE INDEX runs_undelivered ON runs (machine) WHERE state IN ('held', 'offered', 'running');
CREATE INDEX runs_by_chain ON runs (machine, chain_seq);
