ALTER TABLE session ADD COLUMN rotated BIGINT;
ALTER TABLE session ADD COLUMN rotated_from UUID;
ALTER TABLE session ADD COLUMN sent BIGINT;
-- UseridMixin
ALTER TABLE session ADD COLUMN authenticated BIGINT;
-- Without RenewalMixin
ALTER TABLE session ADD COLUMN renewal_id UUID;
