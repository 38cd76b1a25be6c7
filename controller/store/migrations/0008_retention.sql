-- What is kept for how long: whether a run changes something on its machine, and when it
-- ended; 1 is the cautious answer for runs of which nobody knows.
ALTER TABLE runs ADD COLUMN is_act BIGINT NOT NULL DEFAULT 1;
UPDATE runs SET is_act = 0 WHERE job IN (SELECT id FROM jobs WHERE action = 'diagnose' OR action LIKE 'script %(dry run)');

CREATE INDEX runs_by_end ON runs (is_act, settled_at);

-- The head of a machine's chain with a receipt that is not kept any more, where the next
-- receipt is.
CREATE TABLE chain_cuts (
    machine TEXT NOT NULL,
    seq BIGINT NOT NULL,
    head TEXT NOT NULL,
    PRIMARY KEY (machine, seq)
);
