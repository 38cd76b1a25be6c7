-- Signed cancels, kept until the machine they are for has answered.
ALTER TABLE runs ADD COLUMN cancel BLOB;
