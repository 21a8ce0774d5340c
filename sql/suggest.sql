--
-- suggest_mapping: tables and columns that were renamed and retyped.
--
\set SHOW_CONTEXT never
\set code '\\echo SQLSTATE :LAST_ERROR_SQLSTATE'
\pset null '-'
SET client_min_messages = warning;
SET timezone = 'UTC';
SET datestyle = 'ISO';
CREATE EXTENSION IF NOT EXISTS pg_rehome CASCADE;
CREATE SCHEMA old;
CREATE SCHEMA new;
CREATE TABLE old."tblCustomer" ("CustomerID" int PRIMARY KEY, "CustName" varchar(60), "CustAddr" text, "SignupTS" bigint,
                                "ActiveYN" char(1), "Tel_No" text, "DOB" text, "Rubbish" text, notes text);
CREATE TABLE old.tbl_ord_lines (line_no int PRIMARY KEY, ord_id int, qty numeric, unit_prc numeric, descr text);
CREATE TABLE old.zzz_import_log (at timestamptz, message text);
CREATE TABLE new.customer (id bigint PRIMARY KEY, name text NOT NULL, address text, signup_at timestamptz, active boolean,
                           phone_number text, birth_date date, notes text);
CREATE TABLE new.order_line (number int PRIMARY KEY, order_id int, quantity numeric(10, 2), unit_price numeric(10, 2),
                             description text, created date DEFAULT now());
CREATE TABLE new.warehouse (id int PRIMARY KEY, city text);
INSERT INTO old."tblCustomer" VALUES
    (1, 'Ann', 'Main Street 1', 1700000000000, 'Y', '0123', '1970-01-31', '', ''),
    (2, 'Bob', 'Main Street 2', 1600000000000, 'N', '0456', '1980-02-28', '', '');
INSERT INTO old.tbl_ord_lines VALUES (1, 1, 2, 9.99, 'things');
SELECT rehome.create_migration('m', NULL, 'names that made sense in 1998');

SELECT kind, source_table, source_column, target_table, target_column, transformation, confidence, reason
  FROM rehome.suggest_mapping('m', 'old', 'new');
-- Whoever agrees runs the SQL: then the tables are mapped, and the rules give rows.
SELECT sql FROM rehome.suggest_mapping('m', 'old', 'new') WHERE kind = 'table';
SELECT sql FROM rehome.suggest_mapping('m', 'old', 'new') WHERE kind = 'table' \gexec
SELECT target, target_field, transformation FROM rehome.mapping_document('m');
SELECT count(*) AS left_over FROM rehome.suggest_mapping('m', 'old', 'new');
SELECT * FROM rehome.lint_mapping('m') WHERE severity = 'error';
CALL rehome.copy('m');
SELECT * FROM new.customer ORDER BY id;
CALL rehome.cancel('m');
SELECT rehome.drop_migration('m');
TRUNCATE new.customer, new.order_line;

-- Values speak against it.
UPDATE old."tblCustomer" SET "SignupTS" = 5, "DOB" = 'in spring';
SELECT rehome.create_migration('m', NULL, 'names that made sense in 1998');
SELECT source_column, target_column, transformation, confidence, reason
  FROM rehome.suggest_mapping('m', 'old."tblCustomer"', 'new.customer') WHERE source_column IN ('SignupTS', 'DOB', 'ActiveYN');
-- None are read.
SELECT source_column, target_column, transformation, confidence, reason
  FROM rehome.suggest_mapping('m', 'old."tblCustomer"', 'new.customer', sample => 0) WHERE source_column IN ('SignupTS', 'DOB', 'ActiveYN');
-- Two tables that are named are a pair, whatever they are called.
SELECT kind, source_table, target_table, confidence, sql FROM rehome.suggest_mapping('m', 'old.zzz_import_log', 'new.warehouse');
-- Of a table that is mapped, the columns without a rule.
SELECT rehome.add_table('m', 'old.tbl_ord_lines', 'new.order_line', columns => '{"number": "line_no"}');
SELECT kind, source_column, target_column, sql FROM rehome.suggest_mapping('m', 'old', 'new.order_line');

SELECT * FROM rehome.suggest_mapping('m', 'old', NULL);
:code
SELECT * FROM rehome.suggest_mapping('m', 'nowhere', 'new');
:code
SELECT * FROM rehome.suggest_mapping('m', 'old', 'new.customer_pkey');
:code
SELECT * FROM rehome.suggest_mapping('m', 'old', 'new', -1);
:code
SELECT * FROM rehome.suggest_mapping('none', 'old', 'new');
:code
CREATE SCHEMA empty;
SELECT * FROM rehome.suggest_mapping('m', 'old', 'empty');
:code

SELECT rehome.drop_migration('m');
DROP SCHEMA old, new, empty CASCADE;
TRUNCATE rehome.event;
