-- What changes with every outcome stands apart from what people say of a machine.
CREATE TABLE records (
    machine TEXT NOT NULL PRIMARY KEY,
    chain_seq BIGINT NOT NULL,
    chain_head TEXT NOT NULL,
    journal_seq BIGINT NOT NULL,
    journal_head TEXT NOT NULL,
    verdict TEXT NOT NULL,
    newest_run TEXT
);

INSERT INTO records (machine, chain_seq, chain_head, journal_seq, journal_head, verdict, newest_run)
SELECT id, chain_seq, chain_head, journal_seq, journal_head, verdict, newest_run FROM machines;

ALTER TABLE machines DROP COLUMN chain_seq;
ALTER TABLE machines DROP COLUMN chain_head;
ALTER TABLE machines DROP COLUMN journal_seq;
ALTER TABLE machines DROP COLUMN journal_head;
ALTER TABLE machines DROP COLUMN verdict;
ALTER TABLE machines DROP COLUMN newest_run;
