# The shop moves from source to target: started by a role with the fewest rights
# that preflight asks for, kept in sync by the worker, verified, cut over,
# written to, rolled back with those writes, cut over again, completed, dropped.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use RehomeTest;

# Everything by hand here: what new_pair does for others is what is tested.
my $pair = new_pair(preload => 1, server => undef);
my ($source, $target) = ($pair->source, $pair->target);
$pair->load_shop;
my $tables = $pair->shop_tables;
my $before = schema_dump($target, 'postgres', '-n', 'shop');

sub shop_state { my ($node) = @_; return schema_dump($node, 'postgres') . catalog_state($node) }

sub call
{
	my ($sql) = @_;
	return $pair->sql_target($sql, timeout => $PostgreSQL::Test::Utils::timeout_default);
}

# Every kind of write to every table is refused, with 25006 and the hint; at the
# target in replica role too, where all triggers are ours.
sub refuses_writes
{
	my ($node, $hint, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @writes;
	for my $table (@$tables)
	{
		push @writes, "TRUNCATE $table CASCADE";
		# A trigger for each row has nothing to say without rows.
		next if $node->safe_psql('postgres', "SELECT EXISTS (SELECT FROM $table)") ne 't';
		my ($column, $all) = split /\|/, $node->safe_psql('postgres', qq{
			SELECT min(quote_ident(attname)) FILTER (WHERE attidentity <> 'a'), string_agg(quote_ident(attname), ', ')
			  FROM pg_attribute WHERE attrelid = '$table'::regclass AND attnum > 0 AND attgenerated = '' AND NOT attisdropped});
		push @writes, "DELETE FROM $table", "UPDATE $table SET $column = $column",
		  "INSERT INTO $table ($all) OVERRIDING SYSTEM VALUE SELECT $all FROM $table";
	}
	my @roles = $node == $target ? qw(origin replica) : qw(origin);
	my @answers = split /\n/, $node->safe_psql('postgres', q{
		CREATE FUNCTION pg_temp.try(sql text, role text) RETURNS text LANGUAGE plpgsql AS $$
		DECLARE code text; said text; hint text;
		BEGIN
			PERFORM set_config('session_replication_role', role, true);
			EXECUTE sql;
			RAISE EXCEPTION 'it is not refused';
		EXCEPTION WHEN OTHERS THEN -- whatever it is, it is returned, and compared below
			GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, said = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
			RETURN concat_ws('|', code, hint, role, sql, said);
		END $$;} . join '', map { my $role = $_; map { "SELECT pg_temp.try(\$sql\$$_\$sql\$, '$role');\n" } @writes } @roles);
	is(scalar @answers, @writes * @roles, "$name: every write was tried");
	is(join("\n", grep { my ($code, $said) = split /\|/; $code ne '25006' || $said !~ $hint } @answers), '', $name);
	return;
}

# ---------------------------------------------------------------------------
# The rights, one by one, as preflight asks for them.

my $home = 'shop.example.org, port 5432';
$pair->sql_source('CREATE ROLE mover LOGIN; REVOKE TEMPORARY ON DATABASE postgres FROM PUBLIC');
$pair->sql_target(sprintf q{
	CREATE SERVER src FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '%s', port '%s', dbname 'postgres');
	CREATE USER MAPPING FOR CURRENT_USER SERVER src OPTIONS (user 'mover');
	SELECT rehome.create_migration('shop', 'src', 'the shop moves', home => '%s');
	SELECT rehome.add_schema('shop', 'shop', 'shop')}, $source->host, $source->port, $home);
is($pair->sql_target(q{SELECT tables, state, authority FROM rehome.status}),
	scalar(@$tables) . '|planned|source', 'the schema is mapped without any right on it');

my ($sqlstate, undef, $detail) = sqlstate_of($target, q{CALL rehome.start('shop')});
is($sqlstate, 'RH002', 'start is refused without the rights');
my $untouched = schema_dump($source);
my $errors = q{FROM rehome.preflight('shop') WHERE severity = 'error'};
cmp_ok($pair->sql_target("SELECT count(*) $errors"), '>=', 2 * @$tables, 'preflight names more than one missing right a table, all at once');
my $rounds = 0;
while ($rounds < 10 && (my @hints = split /\n/, $pair->sql_target("SELECT DISTINCT hint $errors")))
{
	is(scalar(grep { !/^GRANT [^;]*;$/ } @hints), 0, 'every hint is a GRANT') or diag(join "\n", @hints);
	$pair->sql_source(join "\n", @hints);
	$rounds++;
}
is($pair->sql_target("SELECT count(*) $errors"), '0', 'with these rights preflight has no errors left');
is($rounds, 1, 'and it asked for all of them at once');
my $without_acls = sub { join "\n", grep { !/^(?:--.*)?$|^GRANT / } split /\n/, $_[0] };
is($without_acls->(schema_dump($source)), $without_acls->($untouched), 'preflight and a refused start have made nothing at the source');
is($pair->sql_source(q{SELECT rolsuper, (SELECT count(*) FROM pg_class WHERE relowner = r.oid) FROM pg_roles r WHERE rolname = 'mover'}),
	'f|0', 'the role is no superuser and owns nothing');
is($pair->sql_target(q{SELECT count(*) FROM rehome.preflight('shop') WHERE severity = 'warning' AND object = 'shop.invoice_number'}),
	'1', 'preflight names the sequence that nothing carries over');

# ---------------------------------------------------------------------------
# Start, sync, verify.

is($pair->sql_target(q{SELECT count(*) > 0 FROM rehome.plan('shop')}), 't', 'there is a plan');
call(q{CALL rehome.start('shop')});
ok($pair->wait_for_state('shop', 'syncing'), 'started; the worker brings it to syncing');
same_content($pair, $tables, 'the target has what the source has');
my $plain = sub { join "\n", grep { !/^(?:--.*)?$|TRIGGER rehome_/ } split /\n/, $_[0] };
is($plain->(schema_dump($target, 'postgres', '-n', 'shop')), $plain->($before),
	'indexes, constraints and comments are back, nothing but our triggers is new');

is($pair->sql_source(q{SELECT string_agg(DISTINCT proowner::regrole::text, ' ') FROM pg_proc WHERE pronamespace = 'rehome_source'::regnamespace}),
	'mover', 'what was made at the source belongs to the role');
refuses_writes($target, qr/Write to the source, or CALL rehome\.cutover\('shop'\)/, 'before the cutover the target refuses writes, of a superuser and in replica role too');

$pair->sql_source(q{
	SET search_path = shop;
	INSERT INTO orders (customer, placed_at, total) SELECT "Id", now(), 12.30 FROM "Customer" LIMIT 20;
	UPDATE product SET sku = sku || '!', net = net + 1 WHERE name < 'product 15';
	DELETE FROM orders WHERE id % 10 = 3;
	INSERT INTO countdown (what) VALUES ('source');
	UPDATE document SET title = 'new title' WHERE title = 'document 1';
	UPDATE measurement SET taken_at = taken_at + interval '1 year' WHERE sensor = 2 AND taken_at BETWEEN '2023-05-01' AND '2023-06-01';
	UPDATE "Customer" SET "E-Mail" = 'x' || "E-Mail", home = ROW('a', 'b', 'cc') WHERE "Id" < 10;
	UPDATE category SET parent_id = NULL WHERE id = 5;
	INSERT INTO empty_table (what) VALUES ('short-lived'); DELETE FROM empty_table;
	TRUNCATE gap; INSERT INTO gap (id) VALUES (1), (2);});
my $total = q{(SELECT sum(total) || ' ' || count(*) FROM shop.orders)};
ok(wait_until($target, "SELECT $total = '" . $pair->sql_source("SELECT $total") . q{' AND (SELECT count(*) FROM shop.gap) = 2}),
	'the worker brings writes by itself');
call(q{CALL rehome.sync('shop')});
same_content($pair, $tables, 'after CALL rehome.sync() the content is the same');
cmp_ok($pair->sql_target(q{SELECT extract(epoch FROM staleness) FROM rehome.status}), '<', 30, 'the status tells a staleness');

my $rows = join '', map { "$_ " . $pair->sql_source("SELECT count(*) FROM $_") . "\n" } sort @$tables;
for my $mode (qw(count hash rows))
{
	is($pair->sql_target(qq{SELECT target || ' ' || source_rows FROM rehome.verify('shop', mode => '$mode')
			WHERE ok AND source_rows = target_rows AND coalesce(missing, 0) = 0 AND coalesce(extra, 0) = 0 AND coalesce(differing, 0) = 0
			ORDER BY target::text COLLATE "C"}) . "\n",
		$rows, "verify, mode $mode: every table is the same, and its rows are counted");
}

# Three rows made wrong behind the guard's back: found by key, and in the way.
sub tamper
{
	my ($sql) = @_;
	$pair->sql_target("BEGIN; ALTER TABLE shop.stock DISABLE TRIGGER rehome_guard; $sql; ALTER TABLE shop.stock ENABLE ALWAYS TRIGGER rehome_guard; COMMIT");
	return;
}
my ($sku1, $sku2) = split /\n/, $pair->sql_source('SELECT sku FROM shop.product ORDER BY sku DESC LIMIT 2');
tamper(qq{SET session_replication_role = replica;
	UPDATE shop.stock SET quantity = quantity + 1 WHERE sku = '$sku1' AND warehouse = 0;
	DELETE FROM shop.stock WHERE sku = '$sku1' AND warehouse = 1;
	INSERT INTO shop.stock SELECT 1, 9, counted_at, sku FROM shop.stock WHERE sku = '$sku2' AND warehouse = 1});
for my $mode (qw(hash rows))
{
	is($pair->sql_target(qq{SELECT target, missing, extra, differing, ok FROM rehome.verify('shop', mode => '$mode') WHERE NOT ok}),
		'shop.stock|1|1|1|f', "verify, mode $mode: three wrong rows are found");
	is($pair->sql_target(q{SELECT string_agg(kind || ' ' || (key->>'warehouse'), ', ' ORDER BY kind) FROM rehome.discrepancy WHERE resolved_at IS NULL}),
		'differing 0, extra 9, missing 1', "verify, mode $mode: and named by key");
}
($sqlstate, undef, $detail) = sqlstate_of($target, q{CALL rehome.cutover('shop')});
is($sqlstate, 'RH003', 'with open discrepancies the cutover is refused');
like($detail, qr/3 open discrepancies in shop\.stock/, 'and says why');
tamper(qq{SET session_replication_role = replica;
	UPDATE shop.stock SET quantity = quantity - 1 WHERE sku = '$sku1' AND warehouse = 0;
	INSERT INTO shop.stock SELECT quantity, 1, counted_at, sku FROM shop.stock WHERE sku = '$sku1' AND warehouse = 0;
	DELETE FROM shop.stock WHERE warehouse = 9});
$pair->sql_source(qq{UPDATE shop.stock SET quantity = quantity + 1 WHERE sku = '$sku1' AND warehouse = 1});
is($pair->sql_target(q{SELECT count(*) FROM rehome.verify('shop') WHERE NOT ok}), '0', 'repaired, verify finds nothing');
is($pair->sql_target(q{SELECT discrepancies FROM rehome.status}), '0', 'and the discrepancies are closed');

# ---------------------------------------------------------------------------
# A cutover that is rolled back by its transaction.

# One sequence is ahead at the target, up and down; the cutover must not lower them.
$pair->sql_target(q{SELECT setval('shop.orders_id_seq', 500000); SELECT setval('shop.countdown_id_seq', -5000)});

sub unchanged_after
{
	my ($call, $inside, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @before = map { shop_state($_) } ($source, $target);
	my $seen = call("BEGIN; CALL rehome.$call('shop'); SELECT state || ' ' || authority FROM rehome.status; ROLLBACK;");
	is($seen, $inside, "$name: inside the transaction it has happened");
	is(shop_state($source), $before[0], "$name: after ROLLBACK the source is as it was: tables, triggers, functions, sequences");
	is(shop_state($target), $before[1], "$name: after ROLLBACK the target is as it was");
	return;
}
unchanged_after('cutover', 'cut_over target', 'BEGIN; CALL rehome.cutover(); ROLLBACK');
$pair->sql_source(q{INSERT INTO shop.countdown (what) VALUES ('after a cutover rolled back')});
refuses_writes($target, qr/CALL rehome\.cutover/, 'after a cutover rolled back the target still refuses writes');
call(q{CALL rehome.sync('shop')});
same_content($pair, $tables, 'and the source is written to and synced from');

# ---------------------------------------------------------------------------
# The cutover.

my %source_value = %{ sequence_values($source, 'shop') };
call(q{CALL rehome.cutover('shop')});
is($pair->sql_target('SELECT state, authority FROM rehome.status'), 'cut_over|target', 'cut over: authority is with the target');
like($pair->sql_target(q{SELECT (detail->>'freeze')::interval FROM rehome.event WHERE kind = 'cutover' ORDER BY id DESC LIMIT 1}),
	qr/^00:00:0/, 'the event has the length of the write freeze');
my %value = %{ sequence_values($target, 'shop') };
is($value{'shop.orders_id_seq'}, '500000 true', 'a sequence that was ahead is not lowered');
is($value{'shop.countdown_id_seq'}, '-5000 true', 'nor is a descending one, though its number is less');
is($value{$_}, $source_value{$_}, "sequence $_ was carried over")
  for qw(shop.countdown_ticket shop.category_id_seq), 'shop."Customer_Id_seq"', 'shop.empty_table_id_seq';
is($value{'shop.empty_table_id_seq'}, '1 true', 'that of an empty table, too, is not where it began');
same_content($pair, $tables, 'the content is the same');

refuses_writes($source, qr/^Write to its new home: \Q$home\E$/, 'the source refuses writes');
is((sqlstate_of($source, "SET ROLE mover; DELETE FROM shop.gap"))[0], '25006', 'and those of the connecting role');
is((sqlstate_of($source, "DELETE FROM shop.gap", 'postgres', connstr => $source->connstr('postgres') . ' user=mover'))[0],
	'25006', 'and those of the connecting role in a session of its own');
is((sqlstate_of($source, "DELETE FROM shop.measurement_2024_0"))[0], '25006', 'and those to a partition');
is((sqlstate_of($source, "TRUNCATE shop.measurement_2024_0"))[0], '25006', 'and TRUNCATE of a partition');

# ---------------------------------------------------------------------------
# Writes at the target, and back.

sub write_all_over
{
	my ($node, $tag, $n) = @_;
	$node->safe_psql('postgres', qq{
		BEGIN;
		SET LOCAL search_path = shop;
		WITH c AS (INSERT INTO "Customer" ("E-Mail", region, external_id, tags, "createdAt", "größe")
			SELECT '$tag' || i || '\@example.org', 'jp-13', md5('$tag ' || i)::uuid, ARRAY['$tag', NULL], '2024-05-05 05:05:05.555555+00', '-0'
			  FROM generate_series(1, 10) AS i RETURNING "Id"),
		o AS (INSERT INTO orders (customer, placed_at, total, note) SELECT "Id", now(), 7.77, E'$tag\\t\\\\N' FROM c RETURNING id)
		INSERT INTO order_line (order_id, line, sku, quantity, price) SELECT id, 1, (SELECT min(sku) FROM product), 1, 7.77 FROM o;
		INSERT INTO category (parent_id, name) SELECT max(id), '$tag' FROM category;
		INSERT INTO countdown (what) SELECT '$tag ' || i FROM generate_series(1, 3) AS i;
		INSERT INTO product (sku, category_id, name, net) SELECT '$tag', max(id), '$tag', 9.99 FROM category;
		INSERT INTO stock VALUES (5, 1, now(), '$tag');
		COMMIT;
		SET search_path = shop;
		UPDATE product SET sku = '$tag-' || sku WHERE name LIKE 'product 1$n%';
		UPDATE "Customer" SET "Id" = "Id" + 100000 WHERE "Id" IN (SELECT "Id" FROM "Customer" c WHERE NOT EXISTS (SELECT FROM orders WHERE customer = c."Id") LIMIT 3);
		UPDATE region SET code = '$tag' WHERE code = 'jp-13';
		UPDATE region SET code = 'jp-13' WHERE code = '$tag';
		DELETE FROM orders WHERE id % 10 = $n;
		DELETE FROM document WHERE title LIKE 'document $n%';
		UPDATE document SET body = repeat('$tag', 10000), scan = NULL WHERE title LIKE 'document 4%';
		UPDATE measurement SET value = '-0', taken_at = taken_at + interval '1 year' WHERE sensor = $n AND taken_at BETWEEN '2023-02-01' AND '2023-02-20';
		UPDATE wide SET id = id + 1000 * $n, c199 = NULL WHERE id < 10;
		DELETE FROM wide WHERE id BETWEEN 10 AND 20;
		TRUNCATE gap;
		INSERT INTO gap (id, first) SELECT i, i FROM generate_series(1, 5) AS i;
		TRUNCATE measurement_2024_1;
		INSERT INTO a_table_whose_name_is_as_long_as_a_name_in_postgres_can_be_____ VALUES (100 + $n, '$tag');
		INSERT INTO empty_table (what) VALUES ('$tag');
		DELETE FROM empty_table WHERE what = '$tag';
	});
	return;
}
my $ids = q{SELECT min(id) FROM shop.orders WHERE note LIKE 'after_cutover%'};
write_all_over($target, 'after_cutover', 1);
cmp_ok($pair->sql_target($ids), '>', 500000, 'the numbers of new orders go on from the sequence');
cmp_ok($pair->sql_target(q{SELECT max(id) FROM shop.countdown WHERE what LIKE 'after_cutover %'}), '<', -5000, 'and downwards where it counts down');
call(q{CALL rehome.sync('shop')});
same_content($pair, $tables, 'the writes are at the source too: it is a standby');
is($pair->sql_target(q{SELECT count(*) FROM rehome.verify('shop', mode => 'rows') WHERE NOT ok}), '0', 'verify finds nothing');

unchanged_after('rollback', 'rolling_back none', 'BEGIN; CALL rehome.rollback(); ROLLBACK');
$pair->sql_target(q{INSERT INTO shop.countdown (what) VALUES ('after a rollback rolled back')});
is((sqlstate_of($source, 'DELETE FROM shop.gap'))[0], '25006', 'after a rollback rolled back the source still refuses writes');

write_all_over($target, 'not_yet_drained', 2);
%value = %{ sequence_values($target, 'shop') };
call(q{CALL rehome.rollback('shop')});
ok($pair->wait_for_state('shop', 'syncing'), 'rolled back: syncing again');
is($pair->sql_target('SELECT authority FROM rehome.status'), 'source', 'authority is with the source');
is($pair->sql_source($ids), $pair->sql_target($ids), 'the source has the writes made after the cutover');
same_content($pair, $tables, 'all of them');
%source_value = %{ sequence_values($source, 'shop') };
is($source_value{$_}, $value{$_}, "sequence $_ was carried back")
  for qw(shop.orders_id_seq shop.countdown_id_seq shop.countdown_ticket shop.category_id_seq), 'shop."Customer_Id_seq"';
refuses_writes($target, qr/CALL rehome\.cutover/, 'after the rollback the target refuses writes');

# ---------------------------------------------------------------------------
# And again.

write_all_over($source, 'after_rollback', 3);
call(q{CALL rehome.sync('shop')});
same_content($pair, $tables, 'after the rollback the source is written to and synced from');
call(q{CALL rehome.cutover('shop')});
is($pair->sql_target('SELECT state, authority FROM rehome.status'), 'cut_over|target', 'cut over again');
refuses_writes($source, qr/^Write to its new home/, 'the source refuses writes again');
write_all_over($target, 'after_the_second_cutover', 4);
call(q{CALL rehome.complete('shop')});
same_content($pair, $tables, 'the last writes are brought back before completion');
is($pair->sql_target('SELECT state, authority FROM rehome.status'), 'completed|target', 'completed');

refuses_writes($source, qr/^Write to its new home: \Q$home\E$/, 'after completion the source refuses writes');
is($pair->sql_source(q{SELECT string_agg(DISTINCT substring(tgname FROM '^rehome_[a-z]+'), ' ') FROM pg_trigger WHERE tgname LIKE 'rehome%'}),
	'rehome_fence', 'of the triggers at the source the fence is left');
is($pair->sql_source(q{SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class
		WHERE relnamespace = 'rehome_source'::regnamespace AND relkind IN ('r', 'S')}),
	'applying captured slice', 'and no change table, and no sequence');
is($pair->sql_target(q{SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'rehome%'}), '0', 'at the target no trigger is left');
is($pair->sql_target(q{SELECT count(*) FROM pg_class WHERE relnamespace = 'rehome_change'::regnamespace}), '0', 'and no change table');
is(schema_dump($target, 'postgres', '-n', 'shop'), $before, 'the target has its indexes, constraints and comments as before the move');
$pair->sql_target('INSERT INTO shop.gap (id) VALUES (1000); DELETE FROM shop.empty_table; TRUNCATE shop.countdown');
pass('the target is written to freely');

my $schema = $pair->sql_target(q{SELECT DISTINCT relnamespace::regnamespace FROM rehome.table_map t JOIN pg_class c ON c.oid = t.source});
$pair->sql_target(q{SELECT rehome.drop_migration('shop')});
is($pair->sql_target('SELECT (SELECT count(*) FROM rehome.migration) + (SELECT count(*) FROM rehome.status) + (SELECT count(*) FROM rehome.table_map)'),
	'0', 'dropped');
is($pair->sql_target("SELECT to_regnamespace('$schema')"), '', 'the imported foreign tables went with it');
cmp_ok($pair->sql_target(q{SELECT count(*) FROM rehome.event WHERE migration = 'shop'}), '>', 5, 'its history is kept');

done_testing();
