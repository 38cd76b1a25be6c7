-- Since when a machine is kept out because two computers use its identity; 0 if it is not.
ALTER TABLE machines ADD COLUMN quarantined_at BIGINT NOT NULL DEFAULT 0;
