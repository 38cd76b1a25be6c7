-- The newest protocol version that a machine's program speaks; 1 is what 0.2.0 speaks.
ALTER TABLE machines ADD COLUMN protocol BIGINT NOT NULL DEFAULT 1;

-- Held orders run out, too.
DROP INDEX runs_open;
CREATE INDEX runs_open ON runs (not_after) WHERE state IN ('queued', 'held', 'offered', 'running');
