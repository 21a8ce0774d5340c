# The Chinook database becomes another: other names, names split and merged, other
# types, money in cents, an enum for a table, ISO countries, customers that are the
# same merged, a list that the old shop never had.  All of it live: writers at the
# source during copy and sync, verified exactly, cut over, written to, rolled back.
#
# The mapping document is doc/example-mapping.md; with UPDATE_DOC=1 it is written.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use RehomeTest;

my $shared = $ENV{PG_REHOME_SHARED} // '';
my $file   = "$shared/data/chinook/Chinook_PostgreSql.sql";
plan skip_all => "the Chinook database is not here: PG_REHOME_SHARED/data/chinook/Chinook_PostgreSql.sql ($file)"
  unless -r $file;

my $pair = new_pair(dbname => 'chinook', preload => 1, target_conf => 'rehome.naptime = 50ms');
my ($source, $target) = ($pair->source, $pair->target);
$pair->sql_source(slurp_file($file) =~ s/^(?:DROP|CREATE) DATABASE .*;\s*$//gmr =~ s/^\\c .*$//gmr);
$pair->sql_source('CREATE SEQUENCE line_number START 10000; CREATE SEQUENCE customer_number START 1000');
$pair->import_foreign_schema('public', 'far');
$pair->sql_target(slurp_file(fixture($_))) for qw(store_schema.sql store_mapping.sql);

# ---------------------------------------------------------------------------
# The document.

my $document = $pair->sql_target(q{SELECT rehome.mapping_document_markdown('m')}) =~ s/, by [^\n]*\.\n/, by the owner of the migration.\n/r;
my $owner    = $pair->sql_source('SELECT current_user');
$document =~ s/ \| \Q$owner\E \| / | owner | /g;
my $kept = 'doc/example-mapping.md';
if ($ENV{UPDATE_DOC})
{
	open my $fh, '>', $kept or die "cannot write $kept: $!";
	print $fh $document . "\n";
	close $fh or die "cannot write $kept: $!";
}
is($document . "\n", slurp_file($kept), "$kept is the mapping document of this very migration");

# ---------------------------------------------------------------------------
# Live.

# Customers that become the same, and others, by their e-mail; new ones, who have
# one that is known in other letters; phones as people write them; sales.
my $writer = start_pgbench($source, <<'EOS', dbname => 'chinook', clients => 1, rate => 60);
\set c random(1, 59)
\set d random(1, 59)
\set t random(1, 3503)
\set i random(1, 412)
\set what random(1, 10)
BEGIN;
UPDATE customer SET email = (SELECT CASE WHEN :what < 4 THEN upper(o.email) ELSE 'c' || :c || '@example.org' END FROM customer o WHERE o.customer_id = :d)
 WHERE customer_id = :c;
UPDATE customer SET phone = '+1 (' || :t || ') 555-' || :d WHERE customer_id = :d;
INSERT INTO customer (customer_id, first_name, last_name, email, country, phone)
    SELECT nextval('customer_number'), 'New', 'Customer', upper(email), country, phone FROM customer WHERE customer_id = :d AND :what = 1;
UPDATE invoice SET total = total + 0.01, customer_id = :d WHERE invoice_id = :i;
INSERT INTO invoice_line VALUES (nextval('line_number'), :i, :t, 0.99, :what);
DELETE FROM invoice_line WHERE invoice_line_id = (SELECT min(invoice_line_id) FROM invoice_line WHERE track_id = :t);
UPDATE track SET name = name || '!' WHERE track_id = :t AND :what = 10;
COMMIT;
EOS
ok(wait_until($source, 'SELECT last_value > 10005 FROM line_number', undef, 'chinook'), 'the shop is open');
$pair->sql_target(q{CALL rehome.start('m')});
ok($pair->wait_for_state('m', 'syncing'), 'copied, and in sync');

sub derived_ok
{
	my ($name) = @_;
	# Not by the derivations' own queries.
	is($pair->sql_target(q{
		SELECT count(*) FROM (SELECT lower(email) AS e, min(id) AS id, count(*)::int AS n FROM store.customer_raw GROUP BY 1) AS w
		  FULL JOIN store.customer c ON c.id = w.id WHERE (lower(c.email), c.merged) IS DISTINCT FROM (w.e, w.n)}),
		'0', "$name: each e-mail has one customer");
	is($pair->sql_target(q{
		SELECT count(*) FROM store.invoice i LEFT JOIN store.customer_raw r ON r.id = i.old_customer_id
		  LEFT JOIN store.customer c ON lower(c.email) = lower(r.email) WHERE i.customer_id IS DISTINCT FROM c.id}),
		'0', "$name: each invoice is that customer's");
	is($pair->sql_target(q{
		SELECT count(*) FROM (SELECT track_id, sum(quantity) AS sold FROM store.invoice_line GROUP BY 1) AS w
		  FULL JOIN store.best_seller b USING (track_id) WHERE w.sold IS DISTINCT FROM b.sold}),
		'0', "$name: the list of best sellers is right");
	return;
}

my $lines = $pair->sql_source('SELECT last_value FROM line_number');
ok(wait_until($source, "SELECT last_value > $lines + 100 FROM line_number", undef, 'chinook'), 'a hundred transactions in sync');
for my $round (1 .. 3)
{
	is($pair->sql_target(q{SELECT string_agg(concat_ws(' ', target, note), ', ') FROM rehome.verify('m', mode => 'rows') WHERE NOT ok}),
		'', "live: verified row by row, round $round");
}
my $merged = $pair->sql_target('SELECT count(*) FROM store.customer WHERE merged > 1');
cmp_ok($merged, '>', 0, "customers have been merged: $merged");

# ---------------------------------------------------------------------------
# Countries without a code.

is($pair->sql_target(q{SELECT string_agg(DISTINCT concat_ws(' ', target, rule, source_row->>'country', source_row->>'billing_country'), ', ') FROM rehome.quarantine}),
	'store.customer_raw country Chile, store.invoice country Chile', 'a country that is not on the list is in quarantine');
is($pair->sql_target(q{SELECT quarantined = (SELECT count(*) FROM rehome.quarantine) AND quarantined > 0 FROM rehome.status}), 't', 'and keeps the status from green');
my ($sqlstate, undef, $detail) = sqlstate_of($target, q{CALL rehome.cutover('m')}, 'chinook');
is($sqlstate, 'RH003', 'no cutover');
like($detail, qr/rows in quarantine for store\.customer_raw.*rows in quarantine for store\.invoice/s, 'for what is in quarantine');
$pair->sql_target(q{
	SELECT rehome.add_rule('m', t.target, 'country', 'value_map', jsonb_set(c.params, '{map,Chile}', '"CL"'), c.source_column, note => c.note)
	  FROM rehome.column_map c JOIN rehome.table_map t ON t.id = c.table_map_id WHERE c."column" = 'country'});
is($pair->sql_target(q{SELECT sum(retried) > 0 AND sum(refused) = 0 FROM rehome.retry('m')}), 't', 'with a code for it, only those are read again');
is($pair->sql_target(q{SELECT quarantined FROM rehome.status}), '0', 'and nothing is in quarantine');
is($pair->sql_target(q{SELECT bool_and(ok) FROM rehome.verify('m', mode => 'rows')}), 't', 'verified');

# ---------------------------------------------------------------------------
# Cut over, written to, rolled back.

my $transactions = stop_pgbench($writer);
cmp_ok($transactions, '>', 100, "$transactions transactions were seen committed");
derived_ok('before the cutover') if $pair->sql_target(q{CALL rehome.sync('m'); SELECT true});
my $before = $pair->sql_source(q{SELECT md5(string_agg(c::text, ',' ORDER BY customer_id)) FROM customer c WHERE customer_id < 50});
my ($pair_id, $members) = split /\|/, $pair->sql_target(q{
	SELECT canonical_key, array_agg(source_key ORDER BY source_key) FROM store.customer_key GROUP BY 1 HAVING count(*) > 1 AND min(source_key) > 50 ORDER BY 1 LIMIT 1});
if (!$pair_id)
{
	# The writer has not left one; two of those that are not compared below.
	$pair->sql_source(q{UPDATE customer SET email = 'twins@example.org' WHERE customer_id IN (51, 52)});
	$pair->sql_target(q{CALL rehome.sync('m')});
	($pair_id, $members) = (51, '{51,52}');
}
is($pair->sql_target(q{SELECT string_agg(object || ': ' || detail, E'\n') FROM rehome.preflight('m') WHERE severity = 'error'}), '', 'nothing stands in the way');
like($pair->sql_target(q{SELECT string_agg(object, ' ' ORDER BY object) FROM rehome.preflight('m') WHERE "check" = 'reverse' AND severity = 'warning'}),
	qr/store\.best_seller.*store\.invoice\.house_number/, 'what could not be carried back is known before');
$pair->sql_target(q{CALL rehome.cutover('m')});
is($pair->sql_target('SELECT state FROM rehome.status'), 'cut_over', 'cut over');
derived_ok('after the cutover');

$pair->sql_target(qq{
	UPDATE store.customer SET email = 'moved\@example.org', phone = '+4930123', country = 'DE' WHERE id = $pair_id;
	INSERT INTO store.customer (id, full_name, email, country) VALUES (5000, 'Ada King Lovelace', 'ada\@example.org', 'GB');
	INSERT INTO store.invoice (id, customer_id, invoiced_at, street, house_number, country, total_cents)
	    VALUES (9001, 5000, '2026-07-01 00:00+02', 'St James''s Square', '12', 'GB', 1234), (9002, $pair_id, '2026-01-01 00:00+01', 'Unter den Linden', NULL, 'DE', 5);
	INSERT INTO store.invoice_line VALUES (900001, 9001, 1, 1234, 1);
	UPDATE store.track SET media = 'aac', length = '1 minute 0.5 seconds', price_cents = 129 WHERE id = 2;
	UPDATE store.clerk SET full_name = 'Janet Peacock' WHERE id = 3;
	DELETE FROM store.invoice_line WHERE id = (SELECT max(id) FROM store.invoice_line WHERE id < 900000)});
$pair->sql_target(q{CALL rehome.rollback('m')});
is($pair->sql_target('SELECT state FROM rehome.status'), 'syncing', 'rolled back');

is($pair->sql_source(qq{SELECT string_agg(concat_ws('|', email, phone, country), ',') = (SELECT string_agg('moved\@example.org|+4930123|Germany', ',') FROM unnest('$members'::int[]))
	FROM customer WHERE customer_id = ANY ('$members')}), 't', 'a change of a merged customer is at each row it was made of');
is($pair->sql_source(q{SELECT first_name, last_name, email, country FROM customer WHERE customer_id = 5000}), 'Ada|King Lovelace|ada@example.org|United Kingdom', 'a new customer');
is($pair->sql_source(q{SELECT string_agg(concat_ws('|', customer_id, invoice_date, billing_address, billing_country, total), ',' ORDER BY invoice_id) FROM invoice WHERE invoice_id > 9000}),
	"5000|2026-07-01 00:00:00|St James's Square 12|United Kingdom|12.34,$pair_id|2026-01-01 00:00:00|Unter den Linden|Germany|0.05", 'his invoice, and hers');
is($pair->sql_source(q{SELECT media_type_id, milliseconds, unit_price FROM track WHERE track_id = 2}), '5|60500|1.29', 'a track: enum, length and price');
is($pair->sql_source(q{SELECT first_name, last_name FROM employee WHERE employee_id = 3}), 'Janet|Peacock', 'a clerk');
is($pair->sql_source(q{SELECT count(*) FROM invoice_line WHERE invoice_line_id = 900001}), '1', 'a line');
is($pair->sql_source(q{SELECT md5(string_agg(c::text, ',' ORDER BY customer_id)) FROM customer c WHERE customer_id < 50}), $before, 'and nobody else was touched');

$pair->sql_source(q{UPDATE customer SET email = 'apart@example.org' WHERE customer_id = } . ($members =~ /(\d+)\}$/)[0]);
$pair->sql_target(q{CALL rehome.sync('m')});
derived_ok('after the rollback');
is($pair->sql_target(q{SELECT string_agg(concat_ws(' ', target, note), ', ') FROM rehome.verify('m', mode => 'rows') WHERE NOT ok}), '', 'verified once more');

done_testing();
