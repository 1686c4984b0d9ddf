ALTER TABLE session
    ADD COLUMN version INTEGER DEFAULT 1 NOT NULL,
    ALTER COLUMN created TYPE BIGINT;
ALTER TABLE session ALTER COLUMN version DROP DEFAULT;
-- IdleMixin
ALTER TABLE session
    ALTER COLUMN idle_expire TYPE BIGINT;
-- ConfigIdleMixin
ALTER TABLE session
    ALTER COLUMN extension_delay TYPE INTEGER,
    ALTER COLUMN extension_chance TYPE INTEGER,
    ALTER COLUMN extension_deadline TYPE INTEGER;
-- ConfigAbsoluteMixin
ALTER TABLE session
    ALTER COLUMN absolute_expire TYPE BIGINT;
-- RenewalMixin
ALTER TABLE session
    ADD COLUMN renewal_previous UUID,
    ALTER COLUMN renewed TYPE BIGINT,
    ALTER COLUMN renewal_tried TYPE BIGINT;
-- ConfigRenewalMixin
ALTER TABLE session
    ALTER COLUMN renewal_try_every TYPE INTEGER;
