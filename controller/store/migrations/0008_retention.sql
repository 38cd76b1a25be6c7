-- What is kept for how long: whether a run is one of a script. Of runs from before nobody
-- knows without reading each order: they are kept as long as those of scripts.
ALTER TABLE runs ADD COLUMN is_script BIGINT NOT NULL DEFAULT 1;

CREATE INDEX runs_by_end ON runs (is_script, settled_at);

-- The head of a machine's chain with a receipt that is not kept any more, where the next
-- receipt is.
CREATE TABLE chain_cuts (
    machine TEXT NOT NULL,
    seq BIGINT NOT NULL,
    head TEXT NOT NULL,
    PRIMARY KEY (machine, seq)
);
