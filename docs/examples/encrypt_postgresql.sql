ALTER TABLE session ALTER COLUMN flash TYPE BYTEA USING convert_to(flash::text, 'UTF8');
