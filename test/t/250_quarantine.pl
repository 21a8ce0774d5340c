# A poisoned table: what a legacy schema has collected in twenty years. What a
# rule or a constraint refuses is kept whole in quarantine, and everything else
# is loaded; sync, a repair at the source, and a rule that is put right bring the
# rest; the status is not green, and the cutover refused, until none is left that
# nobody has accepted.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use RehomeTest;

my $pair = new_pair();
my ($source, $target) = ($pair->source, $pair->target);

sub call { my ($sql) = @_; return $pair->sql_target($sql, timeout => $PostgreSQL::Test::Utils::timeout_default) }

# copy_quarantining NAME, REASON: copies table NAME of schema old to that of schema
# new, by a migration of that name, with what is refused in quarantine.
sub copy_quarantining
{
	my ($name, $reason) = @_;
	$pair->import_foreign_schema('old', $name, $name);
	return $pair->sql_target(qq{
		SELECT rehome.create_migration('$name', 'src', '$reason');
		SELECT rehome.add_table('$name', '$name.$name', 'new.$name');
		SELECT rehome.set_table_rule('$name', 'new.$name', on_error => 'quarantine');
		CALL rehome.copy('$name')});
}

sub quarantined { return $pair->sql_target(q{SELECT coalesce(string_agg(source_key->>'id' || ' ' || coalesce(rule, '?') || ' ' || sqlstate, ', ' ORDER BY (source_key->>'id')::int), 'none') FROM rehome.quarantine WHERE NOT accepted}) }

$pair->sql_source(q{
	CREATE SCHEMA old;
	CREATE TABLE old.customer (
		id integer PRIMARY KEY, email text, made text, doc text, name text, amount numeric, rate float8,
		status text, country integer, seen timestamp, age integer, region integer);
	INSERT INTO old.customer
	SELECT i, 'user' || i || '@example.org', '2020-02-29 10:00:00', '{"n": ' || i || '}', 'name ' || i, i, i / 7.0,
	       (ARRAY['new', 'old'])[1 + i % 2], 1 + i % 3, '2024-01-01', 30, i % 4
	  FROM generate_series(1, 1500) AS i;
	UPDATE old.customer SET made = '0000-00-00 00:00:00' WHERE id = 10;
	UPDATE old.customer SET email = '' WHERE id = 20;
	UPDATE old.customer SET doc = '{"n": 1,,}' WHERE id = 30;
	UPDATE old.customer SET doc = '{"n": "\u0000"}' WHERE id = 31;
	UPDATE old.customer SET name = repeat('x', 41) WHERE id = 40;
	UPDATE old.customer SET amount = 100000 WHERE id = 50;
	UPDATE old.customer SET amount = 'NaN' WHERE id = 51;
	UPDATE old.customer SET rate = 'Infinity' WHERE id = 52;
	UPDATE old.customer SET email = 'user1@example.org' WHERE id IN (60, 1400);
	UPDATE old.customer SET country = 99 WHERE id = 70;
	UPDATE old.customer SET status = 'no such' WHERE id = 80;
	UPDATE old.customer SET seen = '0044-03-15 BC' WHERE id = 90;
	UPDATE old.customer SET seen = '294276-12-31 23:59:59' WHERE id = 91;
	UPDATE old.customer SET age = -1 WHERE id = 100;
	UPDATE old.customer SET age = 200 WHERE id = 101;
	UPDATE old.customer SET region = 999 WHERE id = 110;});
$pair->sql_target(q{
	CREATE SCHEMA new;
	CREATE TYPE new.status AS ENUM ('fresh', 'known');
	CREATE TABLE new.country (old_id integer PRIMARY KEY, code text NOT NULL UNIQUE);
	INSERT INTO new.country VALUES (1, 'de'), (2, 'fr'), (3, 'it');
	CREATE TABLE new.region (id integer PRIMARY KEY);
	INSERT INTO new.region VALUES (0), (1), (2), (3);
	CREATE TABLE new.customer (
		id bigint PRIMARY KEY, email text NOT NULL UNIQUE, made timestamptz, doc jsonb, name varchar(40), amount numeric(6, 2),
		rate numeric, status new.status, country text NOT NULL, seen timestamptz, age smallint CHECK (age >= 0),
		region integer REFERENCES new.region,
		extra text DEFAULT 'made here');
	CREATE INDEX ON new.customer (name);});
$pair->import_foreign_schema('old', 'old');
$pair->sql_target(q{
	SELECT rehome.create_migration('m', 'src', 'twenty years of data');
	SELECT rehome.add_table('m', 'old.customer', 'new.customer', columns => '{"made": null, "doc": null, "status": null, "country": "''xx''"}');
	SELECT rehome.set_table_rule('m', 'new.customer', on_error => 'quarantine');
	SELECT rehome.add_rule('m', 'new.customer', 'email', 'null', '{"blank_to_null": true}');
	SELECT rehome.add_rule('m', 'new.customer', 'made', 'timestamp', '{"zone": "Europe/Berlin"}');
	SELECT rehome.add_rule('m', 'new.customer', 'doc', 'text', '{"json": "refuse"}');
	SELECT rehome.add_rule('m', 'new.customer', 'amount', 'number', '{"nan": "refuse"}');
	SELECT rehome.add_rule('m', 'new.customer', 'rate', 'number', '{"nan": "refuse"}', on_error => 'null');
	SELECT rehome.add_rule('m', 'new.customer', 'status', 'value_map', '{"map": {"new": "fresh", "old": "known"}}');
	SELECT rehome.add_rule('m', 'new.customer', 'country', 'lookup', '{"table": "new.country", "from": "old_id", "to": "code"}');
	SELECT rehome.add_rule('m', 'new.customer', 'seen', 'timestamp', '{"min": "1900-01-01", "max": "2100-01-01"}');
	SELECT rehome.add_rule('m', 'new.customer', 'age', 'cast', validation => 'value < 150');});

# ---------------------------------------------------------------------------
# Each of them is named before anything moves, by key and rule.

sub linted
{
	return $pair->sql_target(q{SELECT string_agg(concat_ws(' ', key->>'id', "column", lint), ', ' ORDER BY (key->>'id')::int, "column")
		FROM rehome.lint_mapping('m', NULL) WHERE key IS NOT NULL});
}
my $poison = join ', ', '1 email duplicate', '10 made narrowing', '20 email null', '30 doc invalid value', '31 doc invalid value', '40 name narrowing',
  '50 amount narrowing', '51 amount invalid value', '52 rate invalid value', '60 email duplicate', '70 country invalid value', '80 status invalid value',
  '90 seen invalid value', '91 seen invalid value', '100 age check', '101 age invalid value', '110 region orphan', '1400 email duplicate';
is(linted(), $poison, 'the lint names each bad row, by key and rule');
$pair->sql_target(q{SELECT rehome.add_rule('m', 'new.customer', 'region', 'lookup', '{"table": "new.region", "from": "id", "to": "id"}')});
is(linted(), $poison =~ s/110 region orphan/110 region invalid value/r, 'a lookup takes the place of the foreign key: what has no parent is refused by the rule');

# ---------------------------------------------------------------------------
# The load, once with workers and once without.

my $loaded = join ', ', '10 made 22008', '20 email 23502', '30 doc RH010', '31 doc RH010', '40 name 22001', '50 amount 22003',
  '51 amount RH010', '60 customer_email_key 23505', '70 country RH010', '80 status RH010', '90 seen RH010', '91 seen RH010',
  '100 customer_age_check 23514', '101 age RH010', '110 region RH010', '1400 customer_email_key 23505';
call(q{CALL rehome.copy('m')});
is(quarantined(), $loaded, 'what is refused is in quarantine, with the rule and the reason');
is($pair->sql_target('SELECT count(*), count(*) FILTER (WHERE rate IS NULL) FROM new.customer'), '1484|1', 'everything else is loaded');
is($pair->sql_target(q{SELECT source_row->>'name', key->>'id' FROM rehome.quarantine WHERE source_key->>'id' = '40'}), ('x' x 41) . '|40',
	'a row is kept whole, with its key');
is($pair->sql_target('SELECT quarantined FROM rehome.status'), '16', 'the status shows them');
for my $mode (qw(count hash rows))
{
	is($pair->sql_target(qq{SELECT source_rows, target_rows, quarantined, ok FROM rehome.verify('m', mode => '$mode')}), '1500|1484|16|t',
		"verify, mode $mode: they are explained, and counted");
}
my ($code, undef, $detail, $hint) = sqlstate_of($target, q{CALL rehome.cutover('m')});
is($code, 'RH003', 'the cutover is refused');
like("$detail $hint", qr/16 rows in quarantine for new\.customer.*accept_quarantine/s, 'with the number, and what to do');

# ---------------------------------------------------------------------------
# Sync: rows become bad, good, or are gone; unique values come free.

$pair->sql_source(q{
	UPDATE old.customer SET name = 'short' WHERE id = 40;
	DELETE FROM old.customer WHERE id = 50;
	UPDATE old.customer SET doc = 'broken' WHERE id = 200;
	UPDATE old.customer SET email = 'user3@example.org' WHERE id = 201;
	INSERT INTO old.customer (id, email, age, country) VALUES (2000, 'new@example.org', 20, 98), (2001, 'new2@example.org', 20, 1);});
call(q{CALL rehome.sync('m')});
is(quarantined(), $loaded =~ s/40 name 22001, 50 amount 22003, //r =~ s/110 region RH010, /110 region RH010, 200 doc RH010, 201 customer_email_key 23505, /r . ', 2000 country RH010',
	'a row that is good now, or gone, leaves the quarantine; one that went bad comes');
is($pair->sql_target('SELECT name FROM new.customer WHERE id = 40'), 'short', 'and is applied');
is($pair->sql_target('SELECT count(*) FROM new.customer WHERE id IN (200, 201)'), '0', 'the old version of a row that is refused is gone');
is($pair->sql_target(q{SELECT source_rows, target_rows, quarantined, ok FROM rehome.verify('m', mode => 'rows')}), '1501|1484|17|t', 'verify explains it all');

$pair->sql_source(q{UPDATE old.customer SET email = 'other@example.org' WHERE id = 3});
call(q{CALL rehome.sync('m')});
is($pair->sql_target('SELECT email FROM new.customer WHERE id = 201'), 'user3@example.org', 'a unique value that comes free frees the row that wanted it');
$pair->sql_source(q{BEGIN; UPDATE old.customer SET email = 'tmp' WHERE id = 5; UPDATE old.customer SET email = 'user5@example.org' WHERE id = 6;
	UPDATE old.customer SET email = 'user6@example.org' WHERE id = 5; COMMIT});
call(q{CALL rehome.sync('m')});
is($pair->sql_target('SELECT string_agg(email, $$ $$ ORDER BY id) FROM new.customer WHERE id IN (5, 6)'), 'user6@example.org user5@example.org',
	'unique values exchanged are no reason for quarantine');

# ---------------------------------------------------------------------------
# Rules put right: only the rejects are tried again.

my $xmin = $pair->sql_target('SELECT xmin FROM new.customer WHERE id = 1');
$pair->sql_target(q{
	SELECT rehome.add_rule('m', 'new.customer', 'made', 'timestamp', '{"zone": "Europe/Berlin", "zero": "null"}');
	SELECT rehome.add_rule('m', 'new.customer', 'doc', 'text', '{"json": "repair"}', on_error => 'null');
	SELECT rehome.add_rule('m', 'new.customer', 'amount', 'number', '{"nan": "null"}');
	SELECT rehome.add_rule('m', 'new.customer', 'status', 'value_map', '{"map": {"new": "fresh", "old": "known"}, "unlisted": "null"}');
	SELECT rehome.add_rule('m', 'new.customer', 'seen', 'timestamp', '{"min": "1900-01-01", "max": "2100-01-01", "out_of_range": "null"}');
	INSERT INTO new.country VALUES (99, 'zz'), (98, 'yy');
	INSERT INTO new.region VALUES (999);});
is($pair->sql_target(q{SELECT retried, refused FROM rehome.retry('m', 'new.customer', 'made')}), '1|0', 'one rule\'s rejects are tried again');
is($pair->sql_target(q{SELECT retried, refused FROM rehome.retry('m')}), '15|5', 'then all the others');
is(quarantined(), '20 email 23502, 60 customer_email_key 23505, 100 customer_age_check 23514, 101 age RH010, 1400 customer_email_key 23505', 'what is left');
is($pair->sql_target('SELECT xmin FROM new.customer WHERE id = 1'), $xmin, 'rows that were good have not been touched');
is($pair->sql_target('SELECT made IS NULL, (SELECT doc FROM new.customer WHERE id = 31), (SELECT country FROM new.customer WHERE id = 70) FROM new.customer WHERE id = 10'),
	't|{"n": ""}|zz', 'the others are as the rules make them now');

($code, undef, $detail) = sqlstate_of($target, q{CALL rehome.cutover('m')});
like($detail, qr/5 rows in quarantine.*new\.customer was made by other rules than it has now/s, 'the table is stale, which keeps it from being cut over');
is($pair->sql_target(q{SELECT ok FROM rehome.verify('m')}), 't', 'until verification shows that its rows are what the rules make');
($code, undef, $detail) = sqlstate_of($target, q{CALL rehome.cutover('m')});
unlike($detail, qr/other rules/, 'then it is not');

# A rule that changes good rows: the table is copied again.
$pair->sql_target(q{SELECT rehome.add_rule('m', 'new.customer', 'name', 'text', '{"case": "upper"}')});
is($pair->sql_target(q{SELECT ok FROM rehome.verify('m')}), 'f', 'other rules make other rows');
$pair->sql_target(q{SELECT rehome.recopy('m', 'new.customer')});
call(q{CALL rehome.sync('m')});
is($pair->sql_target(q{SELECT ok, quarantined FROM rehome.verify('m')}), 't|5', 'copied again, they are those of the rules');
is($pair->sql_target(q{SELECT name, rules_hash = rehome.rules_hash(t.id) FROM new.customer c, rehome.table_map t WHERE c.id = 7}), 'NAME 7|t', 'and the table is not stale');

# ---------------------------------------------------------------------------
# To the end.

$pair->sql_source(q{UPDATE old.customer SET email = 'twenty@example.org' WHERE id = 20; UPDATE old.customer SET age = 0 WHERE id = 100;
	UPDATE old.customer SET email = 'sixty@example.org' WHERE id = 60});
call(q{CALL rehome.sync('m')});
is(quarantined(), '101 age RH010, 1400 customer_email_key 23505', 'repaired at the source');
is((sqlstate_of($target, q{SELECT rehome.accept_quarantine('m', ' ')}))[0], '22004', 'rows are not given up without a reason');
is($pair->sql_target(q{SELECT rehome.accept_quarantine('m', 'older than anybody', 'new.customer', 'age')}), '1', 'one is given up');
is($pair->sql_target(q{SELECT accepted_by = current_user, accepted_reason FROM rehome.quarantine WHERE accepted}), 't|older than anybody', 'with name and reason');
$pair->sql_source(q{DELETE FROM old.customer WHERE id = 1400});
call(q{CALL rehome.sync('m')});
is($pair->sql_target('SELECT quarantined, discrepancies FROM rehome.status'), '0|0', 'the end is green');
($code, undef, $detail) = sqlstate_of($target, q{CALL rehome.cutover('m')});
is("$code $detail", '00000 ', 'and the cutover goes through');
$pair->sql_target(q{UPDATE new.customer SET age = 77, status = 'fresh', country = 'it' WHERE id = 3});
call(q{CALL rehome.sync('m')});
is($pair->sql_source(q{SELECT age, country, (SELECT count(*) FROM old.customer WHERE id = 101) FROM old.customer WHERE id = 3}), '77|3|1',
	'changes go back by the inverses, and what was given up is still there');

# ---------------------------------------------------------------------------
# Policies of columns alone; nothing of it costs the index its rebuild.

$pair->sql_source(q{CREATE TABLE old.point (id integer PRIMARY KEY, v text, w text NOT NULL);
	INSERT INTO old.point SELECT i, CASE WHEN i % 100 = 0 THEN 'bad' ELSE i::text END, CASE WHEN i % 100 = 1 THEN 'bad' ELSE i::text END FROM generate_series(1, 5000) AS i});
$pair->sql_target(q{CREATE TABLE new.point (id integer PRIMARY KEY, v integer, w integer NOT NULL DEFAULT -1)});
$pair->import_foreign_schema('old', 'again');
$pair->sql_target(q{
	SELECT rehome.create_migration('n', 'src', 'policies of columns');
	SELECT rehome.add_table('n', 'again.point', 'new.point', columns => '{"v": null, "w": "0"}');
	SELECT rehome.add_rule('n', 'new.point', 'v', 'cast', on_error => 'quarantine');
	SELECT rehome.add_rule('n', 'new.point', 'w', 'cast', on_error => 'default');});
call(q{CALL rehome.copy('n')});
is($pair->sql_target(q{SELECT count(*), count(*) FILTER (WHERE w = -1), (SELECT count(*) FROM rehome.quarantine WHERE migration = 'n') FROM new.point}), '4950|50|50',
	'one column\'s errors are quarantined, another\'s get the default');
is($pair->sql_target(q{SELECT ok FROM rehome.verify('n', mode => 'rows')}), 't', 'and verification takes it so');
$pair->sql_source(q{BEGIN; TRUNCATE old.point; INSERT INTO old.point VALUES (1, 'x', '1'), (2, '2', 'y'), (3, '3', '3'); COMMIT});
call(q{CALL rehome.sync('n')});
is($pair->sql_target(q{SELECT string_agg(id || ' ' || w, ', ' ORDER BY id), (SELECT string_agg(source_key->>'id', ',') FROM rehome.quarantine WHERE migration = 'n') FROM new.point}),
	'2 -1, 3 3|1', 'after a TRUNCATE nothing is left in quarantine but what is bad now');
$pair->sql_source(q{INSERT INTO old.point VALUES (4, '4', '4'), (5, NULL, '99999999999')});
call(q{CALL rehome.sync('n')});
is($pair->sql_target(q{SELECT string_agg(id || ' ' || w, ', ' ORDER BY id) FROM new.point}), '2 -1, 3 3, 4 4, 5 -1', 'sync keeps to the policies');

# Of however many keys in quarantine, those that come back leave it, and the other rows stay at the source.
$pair->sql_source(q{CREATE TABLE old.many (id integer PRIMARY KEY, v integer); INSERT INTO old.many SELECT i, -1 FROM generate_series(1, 25000) AS i});
$pair->sql_target(q{CREATE TABLE new.many (id integer PRIMARY KEY, v integer CHECK (v > 0))});
$pair->import_foreign_schema('old', 'lots', 'many');
$pair->sql_target(q{
	SELECT rehome.create_migration('lots', 'src', 'many bad rows');
	SELECT rehome.add_table('lots', 'lots.many', 'new.many');
	SELECT rehome.set_table_rule('lots', 'new.many', on_error => 'quarantine')});
call(q{CALL rehome.copy('lots')});
$pair->sql_target(q{SELECT rehome.accept_quarantine('lots', 'a test of many')});
call(q{CALL rehome.cutover('lots')});
$pair->sql_target(q{INSERT INTO new.many SELECT i, i FROM unnest('{1,9999,10000,15000,25000}'::int[]) AS i});
call(q{CALL rehome.sync('lots')});
is($pair->sql_target(q{SELECT count(*), count(*) FILTER (WHERE (source_key->>'id')::int IN (1, 9999, 10000, 15000, 25000)) FROM rehome.quarantine WHERE migration = 'lots'}), '24995|0',
	'rows with keys of such that were refused take their places');
is($pair->sql_source(q{SELECT count(*), string_agg(id || ' ' || v, ',' ORDER BY id) FILTER (WHERE v > 0) FROM old.many}), '25000|1 1,9999 9999,10000 10000,15000 15000,25000 25000',
	'at the source too');
$pair->sql_target(q{BEGIN; TRUNCATE new.many; INSERT INTO new.many VALUES (25000, 1), (30000, 2); COMMIT});
call(q{CALL rehome.sync('lots')});
is($pair->sql_source(q{SELECT count(*), string_agg(id || ' ' || v, ',' ORDER BY id) FILTER (WHERE v > 0) FROM old.many}), '24997|25000 1,30000 2',
	'and the others stay there when all of the table goes back');

# ---------------------------------------------------------------------------
# A validation looks at the value that the rule has given; it does not have it made again.

$pair->sql_source(q{CREATE TABLE old.once (id integer PRIMARY KEY, v text); INSERT INTO old.once VALUES (1, 'a'), (2, 'b'), (3, NULL), (4, 'bad'), (5, 'c')});
$pair->sql_target(q{CREATE TABLE new.once (id integer PRIMARY KEY, v varchar(10));
	CREATE FUNCTION new.noisy(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RAISE NOTICE 'evaluated'; RETURN upper($1); END$$});
$pair->import_foreign_schema('old', 'once', 'once');
for my $policy (qw(null fail))
{
	$pair->sql_target(qq{
		SELECT rehome.create_migration('$policy', 'src', 'each value once');
		SELECT rehome.add_table('$policy', 'once.once', 'new.once');
		SELECT rehome.add_rule('$policy', 'new.once', 'v', 'expression', '{"expression": "new.noisy(value)"}', on_error => '$policy',
			validation => 'value IS NULL OR (value <> ''BAD'' AND length(value) = 1)')});
	$pair->sql_source(q{UPDATE old.once SET v = 'd' WHERE id = 4}) if $policy eq 'fail';
	$target->psql('postgres', "SET rehome.copy_workers = 0; CALL rehome.copy('$policy')", stderr => \my $stderr);
	my $evaluated = () = $stderr =~ /NOTICE:  evaluated/g;
	# a row that is refused is looked at once more, by itself, with the value made for each mention
	is($evaluated, $policy eq 'null' ? 8 : 5, "policy $policy: each value is made once") or diag($stderr);
	is($pair->sql_target(q{SELECT string_agg(coalesce(v, '-'), ' ' ORDER BY id) FROM new.once}), $policy eq 'null' ? 'A B - - C' : 'A B - D C', "policy $policy: and is the rule's");
	$pair->sql_target("CALL rehome.cancel('$policy')");
	$pair->sql_target("SELECT rehome.drop_migration('$policy'); TRUNCATE new.once");
}

# ---------------------------------------------------------------------------
# However many rows are refused, and tried again, none leaves memory behind.

$pair->sql_source(q{CREATE TABLE old.bad (id integer PRIMARY KEY, v integer, pad text);
	INSERT INTO old.bad SELECT i, -1, repeat('x', 20) FROM generate_series(1, 4000) AS i});
$pair->sql_target(q{CREATE TABLE new.bad (id integer PRIMARY KEY, v integer CHECK (v > 0), pad text)});
$pair->import_foreign_schema('old', 'bads', 'bad');
$pair->sql_target(q{
	SELECT rehome.create_migration('bad', 'src', 'nothing but bad rows');
	SELECT rehome.add_table('bad', 'bads.bad', 'new.bad');
	SELECT rehome.set_table_rule('bad', 'new.bad', on_error => 'quarantine')});
{
	my $lock = hold_lock($target, debug_lock());
	my $copy = start_psql($target, q{CALL rehome.copy('bad')}, debug_point => 'chunk-loaded:wait', options => '-c rehome.copy_workers=0');
	my $pid = wait_for_lock_waiter($target, debug_lock());
	my $from = -s $target->logfile;
	# it looks at its interrupts when it waits no more
	$pair->sql_target("SELECT pg_log_backend_memory_contexts($pid)");
	$target->wait_for_log(qr/\[$pid\].*level: \d+; pg_rehome chunk/, $from);
	my ($used) = PostgreSQL::Test::Utils::slurp_file($target->logfile, $from) =~ /\[$pid\].*level: \d+; pg_rehome chunk: (\d+) total/;
	cmp_ok($used, '<', 1024 * 1024, "4000 refused rows: a chunk takes $used bytes");
	$lock->quit;
	is(finish_psql($copy)->{sqlstate}, '00000', '4000 refused rows: it is copied');
	is($pair->sql_target(q{SELECT count(*) FROM rehome.quarantine WHERE migration = 'bad'}), '4000', '4000 refused rows: all are in quarantine');
	$pair->sql_target(q{CALL rehome.cancel('bad')});
}

# ---------------------------------------------------------------------------
# A constraint that PostgreSQL checks later lets nothing in that it forbids: when
# the table is small and keeps its indexes, when it is read by partitions, and in
# sync; with quarantine, the row is refused. What only exchanges values may.

$pair->sql_source(q{
	CREATE TABLE old.later (id integer PRIMARY KEY, a text, code text, during int4range);
	INSERT INTO old.later SELECT i, 'a', 'c' || i, int4range(i * 10, i * 10 + 5) FROM generate_series(1, 50) AS i;
	INSERT INTO old.later VALUES (51, NULL, 'c7', NULL), (52, NULL, 'c7', NULL)});
$pair->import_foreign_schema('old', 'laters', 'later');
my $later_columns = q{id integer, a text, code text COLLATE "C", during int4range};
for my $kind ('plain', 'partitioned')
{
	my $key = $kind eq 'plain' ? 'PRIMARY KEY (id)' : 'PRIMARY KEY (id, a)';
	for my $on_error (qw(fail quarantine))
	{
		my $columns = $kind eq 'plain' ? '' : q{, columns => '{"a": "coalesce(a, ''a'')"}', key => '{id, a}'};
		# the columns of the constraint would be null in two rows
		$pair->sql_source(q{UPDATE old.later SET code = 'c7', during = '[70,73)', a = 'a' WHERE id = 51; UPDATE old.later SET code = 'd7', during = NULL, a = NULL WHERE id = 52});
		$pair->sql_target("DROP TABLE IF EXISTS new.later; CREATE TABLE new.later ($later_columns, $key, "
			  . ($kind eq 'plain' ? q{UNIQUE (a, code) DEFERRABLE INITIALLY DEFERRED, CONSTRAINT later_during EXCLUDE USING gist (during WITH &&) WHERE (id <> 50) DEFERRABLE)}
				: q{UNIQUE (code, a) DEFERRABLE) PARTITION BY LIST (a); CREATE TABLE new.later_a PARTITION OF new.later FOR VALUES IN ('a')}));
		$pair->sql_target("SELECT rehome.create_migration('later', 'src', 'checked later');
			SELECT rehome.add_table('later', 'laters.later', 'new.later'$columns);
			SELECT rehome.set_table_rule('later', 'new.later', on_error => '$on_error')");
		my $name = "checked later, $kind, $on_error";
		my $constraint = $kind eq 'plain' ? 'later_a_code_key' : 'later_a_code_a_key';
		my $copy = q{SET rehome.keep_indexes_below = '512kB'; SET rehome.copy_workers = 0; CALL rehome.copy('later')};
		if ($on_error eq 'fail')
		{
			my ($sqlstate, $message) = sqlstate_of($target, $copy);
			is("$sqlstate $message", "23505 duplicate key value violates unique constraint \"$constraint\"", "$name: the copy is refused");
			$pair->sql_source(q{UPDATE old.later SET code = 'c51' WHERE id = 51});
			($sqlstate, $message) = sqlstate_of($target, $copy);
			if ($kind eq 'plain')
			{
				is("$sqlstate $message", '23P01 conflicting key value violates exclusion constraint "later_during"', "$name: and by the exclusion constraint");
				$pair->sql_source(q{UPDATE old.later SET during = NULL WHERE id = 51});
				($sqlstate, $message) = sqlstate_of($target, $copy);
			}
			is($sqlstate, '00000', "$name: put right, it ends");
		}
		else
		{
			call($copy);
			is($pair->sql_target(q{SELECT string_agg(source_key->>'id' || ' ' || sqlstate || ' ' || rule, ', ') FROM rehome.quarantine WHERE migration = 'later'}),
				"51 23505 $constraint", "$name: the row is refused");
			$pair->sql_source(q{UPDATE old.later SET code = 'c51', during = NULL WHERE id = 51});
			call(q{CALL rehome.sync('later')});
		}
		is($pair->sql_target(q{SELECT count(*) FROM new.later}), '52', "$name: all rows are there");

		$pair->sql_source(q{UPDATE old.later SET code = 'c' || CASE id WHEN 1 THEN 2 WHEN 2 THEN 1 END, during = CASE id WHEN 1 THEN '[20,25)' ELSE '[10,15)' END::int4range WHERE id IN (1, 2)});
		is((sqlstate_of($target, q{CALL rehome.sync('later')}))[0], '00000', "$name: values are exchanged");
		$pair->sql_source(q{INSERT INTO old.later VALUES (60, 'a', 'c9', NULL)});
		if ($on_error eq 'fail')
		{
			my ($sqlstate, $message, $detail) = sqlstate_of($target, q{CALL rehome.sync('later')});
			is("$sqlstate $message", "23505 duplicate key value violates unique constraint \"$constraint\"", "$name: a row that comes is refused");
			is($detail, $kind eq 'plain' ? 'Key (a, code)=(a, c9) already exists.' : 'Key (code, a)=(c9, a) already exists.', "$name: which is told");
		}
		else
		{
			call(q{CALL rehome.sync('later')});
			is($pair->sql_target(q{SELECT string_agg(source_key->>'id' || ' ' || sqlstate || ' ' || rule, ', ') FROM rehome.quarantine WHERE migration = 'later'}),
				"60 23505 $constraint", "$name: a row that comes is refused");
		}
		$pair->sql_source('DELETE FROM old.later WHERE id = 60');
		call(q{CALL rehome.sync('later')});
		is($pair->sql_target(q{SELECT ok FROM rehome.verify('later', mode => 'rows')}), 't', "$name: both sides are equal");
		$pair->sql_source(q{UPDATE old.later SET code = 'c' || id, during = int4range(id * 10, id * 10 + 5) WHERE id < 3});
		call(q{CALL rehome.cancel('later')});
		$pair->sql_target(q{SELECT rehome.drop_migration('later')});
	}
}

# ---------------------------------------------------------------------------
# What stops a slice does not quote what is redacted.

$pair->sql_source(q{CREATE TABLE old.card (id integer PRIMARY KEY, number text); INSERT INTO old.card VALUES (1, '4111')});
$pair->sql_target(q{CREATE TABLE new.card (id integer PRIMARY KEY, number bigint)});
$pair->import_foreign_schema('old', 'cards', 'card');
$pair->sql_target(q{
	SELECT rehome.create_migration('c', 'src', 'cards');
	SELECT rehome.add_table('c', 'cards.card', 'new.card', columns => '{"number": "number::bigint"}');
	CALL rehome.start('c')});
ok($pair->wait_for_state('c', 'syncing'), 'cards are in sync');
my $error = q{SELECT error FROM rehome.status WHERE migration = 'c'};
$pair->sql_source(q{UPDATE old.card SET number = 'secret 4112'});
ok(wait_until($target, "SELECT coalesce(($error) LIKE '%\"secret 4112\"', false)"), 'an error tells the value');
$pair->sql_target(q{SELECT rehome.redact('c', 'new.card', '{number}')});
my $secrets = q{SELECT count(*) FROM (SELECT t::text FROM rehome.event t UNION ALL SELECT t::text FROM rehome.slice t) AS t(row) WHERE row LIKE '%secret 411%'};
is($pair->sql_target($secrets), '0', '... until it is redacted');
$pair->sql_source(q{UPDATE old.card SET number = 'secret 4113'});
ok(wait_until($target, "SELECT coalesce(($error) = 'withheld, as columns are redacted (SQLSTATE 22P02)', false)"), 'what comes later tells no more than its SQLSTATE')
  or diag($pair->sql_target($error));
is($pair->sql_target($secrets), '0', '... in the events neither');
$pair->sql_source(q{UPDATE old.card SET number = '4114'});
ok(wait_until($target, "SELECT ($error) IS NULL AND (SELECT number FROM new.card) = 4114"), 'and it goes on as ever');
$pair->sql_target(q{CALL rehome.cancel('c')});


# ---------------------------------------------------------------------------
# A key that is null is another one than the empty text; and what is not on
# record cannot be found to be what was accepted.

$pair->sql_source(q{CREATE TABLE old.blind (k text UNIQUE, v text, secret text);
	INSERT INTO old.blind VALUES (NULL, '1', 's'), ('', 'bad', 's'), ('b', 'bad', 's'), ('c', '3', 's')});
$pair->sql_target(q{CREATE TABLE new.blind (k text PRIMARY KEY, v integer, secret text)});
$pair->import_foreign_schema('old', 'blind', 'blind');
$pair->sql_target(q{
	SELECT rehome.create_migration('blind', 'src', 'keys that are null');
	SELECT rehome.add_table('blind', 'blind.blind', 'new.blind', columns => '{"v": "v::int"}');
	SELECT rehome.set_table_rule('blind', 'new.blind', on_error => 'quarantine');
	SELECT rehome.redact('blind', 'new.blind', '{secret}');
	CALL rehome.copy('blind')});
my $refused = q{SELECT coalesce(string_agg(coalesce(source_key ->> 'k', 'null') || CASE WHEN accepted THEN ' accepted' ELSE '' END, ', ' ORDER BY source_key ->> 'k'), 'none') FROM rehome.quarantine WHERE migration = 'blind'};
is($pair->sql_target($refused), ', b, null', 'refused: two values, and a key that is null');
$pair->sql_source(q{UPDATE old.blind SET v = '2' WHERE k = ''});
$pair->sql_target(q{CALL rehome.sync('blind')});
is($pair->sql_target($refused), 'b, null', 'a row that is good now, whose key is empty, leaves the one whose key is null');
$pair->sql_target(q{SELECT rehome.accept_quarantine('blind', 'known'); SELECT rehome.retry('blind', 'new.blind')});
is($pair->sql_target($refused), 'b accepted, null accepted', 'read again, they are what was accepted');
$pair->sql_source(q{UPDATE old.blind SET secret = 't' WHERE k = 'b'});
$pair->sql_target(q{CALL rehome.sync('blind')});
is($pair->sql_target($refused), 'b, null accepted', 'one that has changed in what is not on record is not');
$pair->sql_target(q{CALL rehome.cancel('blind')});

# ---------------------------------------------------------------------------
# What was decided in a migration is not decided in the next one of its name.

$pair->sql_source(q{CREATE TABLE old.again (id integer PRIMARY KEY, v text); INSERT INTO old.again VALUES (1, '1'), (3, 'bad')});
$pair->sql_target(q{CREATE TABLE new.again (id integer PRIMARY KEY, v integer)});
$pair->import_foreign_schema('old', 'again', 'again');
$pair->sql_target(q{
	SELECT rehome.create_migration('again', 'src', 'the first');
	SELECT rehome.add_table('again', 'again.again', 'new.again', columns => '{"v": "v::int"}');
	SELECT rehome.set_table_rule('again', 'new.again', on_error => 'quarantine');
	CALL rehome.copy('again');
	SELECT rehome.accept_quarantine('again', 'a trial run')});
my $definition = $pair->sql_target(q{SELECT quote_literal(rehome.export_migration('again'))});
$pair->sql_target(q{CALL rehome.cancel('again')});
$pair->sql_target(q{SELECT rehome.drop_migration('again'); TRUNCATE new.again});
my $kept = q{SELECT count(*) FROM rehome.quarantine WHERE migration = 'again'};
is($pair->sql_target($kept), 1, 'a migration that is dropped leaves its record');
like(finish_psql(start_psql($target, "SELECT rehome.import_migration($definition)"))->{stderr}, qr/NOTICE:.*1 discrepancies, refused rows and drifts of an earlier migration "again" are forgotten/, 'until there is another of its name');
is($pair->sql_target($kept), 0, 'it begins with none');
$pair->sql_target(q{CALL rehome.copy('again')});
is($pair->sql_target(q{SELECT accepted FROM rehome.quarantine WHERE migration = 'again'}), 'f', 'a row that is refused again has been accepted by nobody');
is((sqlstate_of($target, q{CALL rehome.cutover('again')}))[0], 'RH003', 'and is in the way of the cutover');

# A row that comes when the gates have been passed, and the source's table is waited for.
$pair->sql_target(q{SELECT rehome.accept_quarantine('again', 'these may stay behind')});
my $writer = $pair->source->background_psql($pair->dbname);
$writer->query_safe(q{BEGIN; INSERT INTO old.again VALUES (4, 'worse')});
my $cutover = start_psql($target, q{SET rehome.lock_timeout = '10s'; CALL rehome.cutover('again')});
ok(wait_until($pair->source, q{SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND relation = 'old.again'::regclass}), 'a cutover waits for a writer');
$writer->query_safe('COMMIT');
$writer->quit;
like(finish_psql($cutover)->{stderr}, qr/RH003.*1 rows in quarantine for new\.again/s, 'whose row is refused, and keeps it from going on');
is($pair->sql_target(q{SELECT state || ' ' || authority FROM rehome.status WHERE migration = 'again'}), 'syncing source', 'nothing has happened');
is($pair->sql_source(q{INSERT INTO old.again VALUES (5, '5') RETURNING id}), '5', 'and the source goes on');

# A row that is refused and in no quarantine is missing, whoever has lost it there.
$pair->sql_target(q{CALL rehome.sync('again'); DELETE FROM rehome.quarantine WHERE migration = 'again' AND source_key ->> 'id' = '3'});
is($pair->sql_target(q{SELECT missing, ok FROM rehome.verify('again', mode => 'rows')}), '1|f', 'a verification tells');
is($pair->sql_target(q{SELECT kind, source_row FROM rehome.discrepancy WHERE migration = 'again' AND resolved_at IS NULL}), 'unrecorded|{"rows": 1}', 'and it is in the way of the cutover');
my (undef, undef, $parts) = $target->psql($pair->dbname, q{SET rehome.verify_part_rows = 1; CALL rehome.verify_tables('again')});
like($parts, qr/WARNING:  new\.again differs; 4 rows compared in parts since .*, 1 differences on record/, 'part by part the end is that it differs');
unlike($parts, qr/is equal/, 'and never that it is equal');
$pair->sql_target(q{CALL rehome.cancel('again')});

# ---------------------------------------------------------------------------
# What json takes and jsonb does not: the rows are kept all the same, with such a
# value as a text.

my $odd_types = q{CREATE DOMAIN odd_json AS json; CREATE TYPE odd_pair AS (a integer, j json)};
my $odd_columns = q{id integer PRIMARY KEY, doc json, docs json[], pair odd_pair, dom odd_json, fine json};
$pair->sql_source($odd_types);
$pair->sql_source(qq{CREATE TABLE old.odd ($odd_columns, n integer)});
my @odd = ('"\u0000"', '"\ud83d"', '"\ude00"', '1e400000');
$pair->sql_source(sprintf q{INSERT INTO old.odd SELECT %d, j, ARRAY[j], ROW(1, j)::odd_pair, j, '{"f": 1}', -1 FROM (SELECT '{"t": %s}'::json) AS j(j)}, $_ + 1, $odd[$_]) for 0 .. $#odd;
$pair->sql_source(q{INSERT INTO old.odd VALUES (8, '{"t": 1}', NULL, NULL, '[]', '{"f": 1}', 8), (9, '{"t": "\ud83d\ude00"}', NULL, NULL, NULL, '{"f": 1}', -1)});
$pair->sql_target($odd_types);
$pair->sql_target(qq{CREATE TABLE new.odd ($odd_columns, n integer CHECK (n > 0))});
$pair->import_foreign_schema('old', 'odd', 'odd');
$pair->sql_target(q{
	SELECT rehome.create_migration('odd', 'src', 'what only json takes');
	SELECT rehome.add_table('odd', 'odd.odd', 'new.odd');
	SELECT rehome.set_table_rule('odd', 'new.odd', on_error => 'quarantine')});
is((sqlstate_of($target, q{CALL rehome.copy('odd')}))[0], '00000', 'a copy whose refused rows jsonb has no place for');
my $odd_kept = q{SELECT string_agg(concat_ws(' ', %s->>'id', jsonb_typeof(%1$s->'doc'), jsonb_typeof(%1$s->'docs'), jsonb_typeof(%1$s->'pair'), jsonb_typeof(%1$s->'dom'), jsonb_typeof(%1$s->'fine')), ', ' ORDER BY %1$s->>'id')
	FROM %2$s};
is($pair->sql_target(sprintf $odd_kept, 'source_row', q{rehome.quarantine WHERE migration = 'odd'}),
	join(', ', (map { "$_ string string string string object" } 1 .. 4), '9 object null null null object'), 'they are in quarantine, with texts for what it refuses');
is($pair->sql_target(q{SELECT concat_ws(' ', source_row->>'doc', source_row->>'docs', source_row->>'pair') FROM rehome.quarantine WHERE migration = 'odd' AND source_key->>'id' = '2'}),
	'{"t": "\ud83d"} {"{\"t\": \"\\\\ud83d\"}"} (1,"{""t"": ""\\\\ud83d""}")', 'as PostgreSQL spells them');
$pair->sql_source(q{UPDATE old.odd SET n = 1 WHERE id <= 2; UPDATE old.odd SET n = -2 WHERE id = 3});
is((sqlstate_of($target, q{CALL rehome.sync('odd')}))[0], '00000', 'a batch of such rows');
is($pair->sql_target(q{SELECT string_agg(source_key->>'id' || ' ' || (source_row->>'n'), ', ' ORDER BY source_key) FROM rehome.quarantine WHERE migration = 'odd'}), '3 -2, 4 -1, 9 -1', 'brings what is good, and keeps what is not');

$pair->sql_target(q{SELECT rehome.set_drift_policy('odd', 'record');
	UPDATE new.odd SET doc = '"\ude00"' WHERE id = 1;
	DELETE FROM new.odd WHERE id = 2;
	UPDATE new.odd SET doc = '2' WHERE id = 8});
is($pair->sql_target(q{SELECT string_agg(concat_ws(' ', key->>'id', old_row->>'doc', new_row->>'doc'), ', ' ORDER BY key) FROM rehome.drift WHERE migration = 'odd' AND kind <> 'refused'}),
	'1 {"t": "\u0000"} "\ude00", 2 {"t": "\ud83d"}, 8 {"t": 1} 2', 'writes to such rows at the target are on record');
is((sqlstate_of($target, q{SELECT * FROM rehome.verify('odd', mode => 'rows')}))[0], '00000', 'verification of such rows');
is($pair->sql_target(q{SELECT string_agg(concat_ws(' ', key->>'id', kind, source_row->>'doc', target_row->>'doc'), ', ' ORDER BY key) FROM rehome.discrepancy WHERE migration = 'odd' AND resolved_at IS NULL}),
	'1 differing {"t": "\u0000"} "\ude00", 2 missing {"t": "\ud83d"}, 8 differing {"t": 1} 2', 'and what differs');
$pair->sql_target(q{CALL rehome.cancel('odd')});

# ---------------------------------------------------------------------------
# Keys of types that an extension made: their operator is named, also for rows
# that are read again.

$pair->sql_source(q{CREATE EXTENSION ltree; CREATE EXTENSION isn;
	CREATE TABLE old.node (path ltree, isbn isbn, code integer, PRIMARY KEY (path, isbn));
	INSERT INTO old.node VALUES ('a.b', '0-393-04002-X', 1), ('a.c', '0-393-04002-X', 1), ('a.d', '0-393-04002-X', 2)});
$pair->sql_target(q{CREATE EXTENSION ltree; CREATE EXTENSION isn; CREATE TABLE new.node (path ltree, isbn isbn, code integer UNIQUE, PRIMARY KEY (path, isbn))});
copy_quarantining('node', 'keys of other types');
my $nodes = q{SELECT concat_ws(' / ', (SELECT string_agg(path::text || ' ' || code, ', ' ORDER BY path) FROM new.node),
	(SELECT string_agg(source_key->>'path' || ' ' || sqlstate, ', ' ORDER BY source_key) FROM rehome.quarantine WHERE migration = 'node'))};
is($pair->sql_target($nodes), 'a.b 1, a.d 2 / a.c 23505', 'one row is refused');
$pair->sql_source(q{UPDATE old.node SET code = 3 WHERE path = 'a.d'});
is((sqlstate_of($target, q{CALL rehome.sync('node')}))[0], '00000', 'a batch that tries it again');
is((sqlstate_of($target, q{SELECT rehome.retry('node', 'new.node')}))[0], '00000', 'so does retry()');
$pair->sql_source(q{UPDATE old.node SET code = 4 WHERE path = 'a.b'});
is((sqlstate_of($target, q{CALL rehome.sync('node')}))[0], '00000', 'a batch that cures it');
is($pair->sql_target($nodes), 'a.b 4, a.c 1, a.d 3', 'brings it in');
$pair->sql_target(q{CALL rehome.cancel('node')});

# ---------------------------------------------------------------------------
# What the target cannot do at all is no fault of a row's.

$pair->sql_source(q{CREATE TABLE old.able (id integer PRIMARY KEY, v integer); INSERT INTO old.able VALUES (1, 1), (2, 2)});
$pair->sql_target(q{CREATE TABLE new.able (id integer PRIMARY KEY, v integer)});
copy_quarantining('able', 'what is not supported');
$pair->sql_target(q{
	CREATE FUNCTION new.unable() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE feature_not_supported; END';
	CREATE TRIGGER unable BEFORE UPDATE ON new.able FOR EACH ROW EXECUTE FUNCTION new.unable();
	ALTER TABLE new.able ENABLE ALWAYS TRIGGER unable});
$pair->sql_source(q{UPDATE old.able SET v = v + 1});
is((sqlstate_of($target, q{CALL rehome.sync('able')}))[0], '0A000', 'a statement that is not supported fails');
is($pair->sql_target(q{SELECT string_agg(id || ' ' || v, ', ' ORDER BY id) || ' ' || (SELECT count(*) FROM rehome.quarantine WHERE migration = 'able') FROM new.able}), '1 1, 2 2 0', 'the rows stay, and are not in quarantine');
$pair->sql_target(q{DROP TRIGGER unable ON new.able; CALL rehome.sync('able')});
is($pair->sql_target(q{SELECT string_agg(id || ' ' || v, ', ' ORDER BY id) FROM new.able}), '1 2, 2 3', 'they come when it is');
$pair->sql_target(q{CALL rehome.cancel('able')});

# ---------------------------------------------------------------------------
# Rows whose key is null are told apart by what is in them.

$pair->sql_source(q{CREATE TABLE old.nameless (a integer UNIQUE, b text);
	INSERT INTO old.nameless VALUES (1, 'x'), (NULL, 'p'), (NULL, 'q'), (NULL, 'q'), (NULL, 'r')});
$pair->sql_target(q{CREATE TABLE new.nameless (a integer PRIMARY KEY, b text)});
copy_quarantining('nameless', 'keys that are null');
my $nameless = q{SELECT concat_ws(' / ', (SELECT string_agg(a || ' ' || b, ', ' ORDER BY a) FROM new.nameless),
	(SELECT string_agg(concat_ws(' ', source_row ->> 'a', source_row ->> 'b', CASE WHEN accepted THEN 'accepted' END), ', ' ORDER BY source_row) FROM rehome.quarantine WHERE migration = 'nameless'))};
my $counted = q{SELECT string_agg(concat_ws(' ', source_rows, target_rows, quarantined, ok), ', ') FROM (VALUES ('rows'), ('hash'), ('count')) AS m(mode), rehome.verify('nameless', mode => m.mode)};
is($pair->sql_target($nameless), '1 x / p, q, q, r', 'each of them is in quarantine');
is($pair->sql_target($counted), '5 1 4 t, 5 1 4 t, 5 1 4 t', 'and explained');
$pair->sql_target(q{SELECT rehome.retry('nameless')});
is($pair->sql_target($nameless), '1 x / p, q, q, r', 'read again they are the same');
$pair->sql_target(q{SELECT rehome.accept_quarantine('nameless', 'known')});
$pair->sql_source(q{UPDATE old.nameless SET b = 's' WHERE b = 'r'; DELETE FROM old.nameless WHERE ctid = (SELECT min(ctid) FROM old.nameless WHERE b = 'q'); INSERT INTO old.nameless VALUES (NULL, 'p')});
$pair->sql_target(q{CALL rehome.sync('nameless')});
is($pair->sql_target($nameless), '1 x / p accepted, p, q accepted, s', 'what is gone at the source leaves the quarantine, what is new there has been accepted by nobody');
$pair->sql_source(q{DELETE FROM old.nameless WHERE ctid = (SELECT max(ctid) FROM old.nameless WHERE b = 'p'); UPDATE old.nameless SET a = 2 WHERE b = 's'; INSERT INTO old.nameless VALUES (3, 'y')});
$pair->sql_target(q{CALL rehome.sync('nameless')});
is($pair->sql_target($nameless), '1 x, 2 s, 3 y / p accepted, q accepted', 'one that has a key now comes');
is($pair->sql_target($counted), '5 3 2 t, 5 3 2 t, 5 3 2 t', 'and all is explained');
$pair->sql_target(q{SELECT rehome.redact('nameless', 'new.nameless', '{b}'); SELECT rehome.retry('nameless')});
is($pair->sql_target(q{SELECT count(*) || ' ' || count(DISTINCT left(contents, 32)) FROM rehome.quarantine WHERE migration = 'nameless'}), '2 1', 'where their contents are not to be on record they are counted');
is($pair->sql_target($counted), '5 3 2 t, 5 3 2 t, 5 3 2 t', 'and explained');
$pair->sql_target(q{CALL rehome.cancel('nameless')});

# ---------------------------------------------------------------------------
# What is too large for jsonb is cut, and says so.

$pair->sql_source(q{CREATE TABLE old.huge (id integer PRIMARY KEY, n integer, doc text); INSERT INTO old.huge VALUES (1, 1, 'short')});
$pair->sql_target(q{CREATE TABLE new.huge (id integer PRIMARY KEY, n integer CHECK (n > 0), doc text)});
copy_quarantining('huge', 'large values');
$pair->sql_source(q{INSERT INTO old.huge VALUES (2, -2, repeat('x', 270000000)), (3, -3, repeat('y', 3000000)), (4, 4, 'last')});
is((sqlstate_of($target, q{CALL rehome.sync('huge')}))[0], '00000', 'a batch with a row that jsonb has no place for');
is($pair->sql_target(q{SELECT string_agg(concat_ws(' ', source_row ->> 'id', source_row ->> 'n', CASE WHEN length(source_row ->> 'doc') > 100000 THEN length(source_row ->> 'doc')::text ELSE right(source_row ->> 'doc', 30) END), ', ' ORDER BY source_key)
	|| ' / ' || (SELECT string_agg(id::text, ' ' ORDER BY id) FROM new.huge) FROM rehome.quarantine WHERE migration = 'huge'}),
	'2 -2 ... (65536 of 270000000 bytes), 3 -3 3000000 / 1 4', 'it is in quarantine with a part of it, others as a whole');
$pair->sql_target(q{SELECT rehome.set_drift_policy('huge', 'record'); UPDATE new.huge SET doc = repeat('z', 270000000) WHERE id = 4});
is($pair->sql_target(q{SELECT (old_row ->> 'doc') || ' ' || right(new_row ->> 'doc', 30) FROM rehome.drift WHERE migration = 'huge' AND kind = 'update'}),
	'last ... (65536 of 270000000 bytes)', 'a write of such a value is on record as well');
$pair->sql_target(q{CALL rehome.cancel('huge')});

# ---------------------------------------------------------------------------
# What is nested so deeply that it cannot be read is refused like anything else.

$pair->sql_source(q{CREATE TABLE old.deep (id integer PRIMARY KEY, doc text, other text); INSERT INTO old.deep SELECT i, d, d FROM (VALUES (1, '[]'), (2, repeat('[', 200000) || repeat(']', 200000))) AS v(i, d)});
$pair->sql_target(q{CREATE TABLE new.deep (id integer PRIMARY KEY, doc jsonb, other jsonb)});
$pair->import_foreign_schema('old', 'deep_src', 'deep');
$pair->sql_target(q{SELECT rehome.create_migration('deep', 'src', 'deep'); SELECT rehome.add_table('deep', 'deep_src.deep', 'new.deep', columns => '{"doc": null, "other": null}');
	SELECT rehome.add_rule('deep', 'new.deep', 'doc', 'text', '{"json": "repair"}', on_error => 'null');
	SELECT rehome.add_rule('deep', 'new.deep', 'other', 'cast', on_error => 'quarantine')});
is((sqlstate_of($target, q{CALL rehome.copy('deep')}))[0], '00000', 'a copy with a value that is nested too deeply');
is($pair->sql_target(q{SELECT (SELECT string_agg(d::text, ' ') FROM new.deep AS d) || ' / ' || string_agg(sqlstate || ' ' || (source_key ->> 'id'), ', ') FROM rehome.quarantine WHERE migration = 'deep'}),
	'(1,[],[]) / 54001 2', 'its row is in quarantine');
$pair->sql_target(q{SELECT rehome.add_rule('deep', 'new.deep', 'other', 'cast', on_error => 'null'); SELECT rehome.recopy('deep', 'new.deep'); CALL rehome.sync('deep')});
is($pair->sql_target(q{SELECT string_agg(d::text, ' ' ORDER BY id) FROM new.deep AS d}), '(1,[],[]) (2,,)', 'or has null in its place');
$pair->sql_target(q{CALL rehome.cancel('deep')});

# ---------------------------------------------------------------------------
# Thousands of refused rows take no more memory than a few.

SKIP:
{
	skip 'how much memory a process has had is known on Linux', 4 unless -r '/proc/self/status';
	$pair->sql_source(q{CREATE TABLE old.bulk (id integer PRIMARY KEY, v integer)});
	$pair->sql_target(q{CREATE TABLE new.bulk (id integer PRIMARY KEY, v integer UNIQUE)});
	copy_quarantining('bulk', 'many of them');
	$pair->sql_source(q{INSERT INTO old.bulk SELECT i, 1 FROM generate_series(1, 4001) AS i});
	my $peak = q{SELECT substring(pg_read_file('/proc/' || pg_backend_pid() || '/status') FROM 'VmHWM:\s+(\d+) kB')::int / 1024};
	my $bulk = q{SELECT (SELECT count(*) FROM new.bulk) || ' ' || count(*) FROM rehome.quarantine WHERE migration = 'bulk'};
	cmp_ok(call(qq{CALL rehome.sync('bulk'); $peak}), '<', 300, 'a batch of 4,001 rows of which one has a place: megabytes');
	is($pair->sql_target($bulk), '1 4000', 'the others are in quarantine');
	$pair->sql_source(q{INSERT INTO old.bulk VALUES (5000, 2)});
	cmp_ok(call(qq{CALL rehome.sync('bulk'); $peak}), '<', 300, 'so does the next batch, which tries a thousand of them again');
	is($pair->sql_target($bulk), '2 4000', 'and brings its row');
	$pair->sql_target(q{CALL rehome.cancel('bulk')});
}

done_testing();
