-- Signed cancels, kept until the machine they are for has heard them.
ALTER TABLE runs ADD COLUMN cancel BLOB;
CREATE INDEX runs_cancelled ON runs (machine) WHERE cancel IS NOT NULL;
