# The Chinook database (11 tables, foreign keys) moved between two clusters,
# verified row by row, cut over, written to at the target, rolled back with those
# writes present at the source, cut over again, completed.
#
# Without shared_preload_libraries, over TCP, by a role with a password.
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

# The file makes a database of its own; ours is there.
my $sql = slurp_file($file) =~ s/^(?:DROP|CREATE) DATABASE .*;\s*$//gmr =~ s/^\\c .*$//gmr;
my ($schema) = $sql =~ /\A(.*?)^INSERT INTO /ms;
ok(defined $schema, 'the file has its schema first');

my $pair = new_pair(dbname => 'chinook', role => 1, tcp => 1);
$pair->sql_source($sql);
$pair->sql_target($schema);
$pair->grant_source('public');

my @tables = split /\n/, $pair->sql_source(q{SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY 1});
is(scalar @tables, 11, 'the Chinook database has 11 tables');
my $before = schema_dump($pair->target, 'chinook', '-n', 'public');
my $count = join ' UNION ALL ', map { "SELECT '$_' AS name, count(*) FROM $_" } @tables;
my $rows = $pair->sql_source("SELECT * FROM ($count) AS c ORDER BY name");

sub call { my ($sql) = @_; return $pair->sql_target($sql, timeout => $PostgreSQL::Test::Utils::timeout_default) }

# One test: verify, row by row, says that all is well, and has seen every row.
sub verified
{
	my ($rows, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($pair->sql_target(q{SELECT target, source_rows FROM rehome.verify('chinook', mode => 'rows')
			WHERE ok AND source_rows = target_rows AND missing = 0 AND extra = 0 AND differing = 0 ORDER BY target::text}), $rows, $name);
	return;
}

$pair->sql_target(q{
	SELECT rehome.create_migration('chinook', 'src', 'the record shop moves');
	SELECT rehome.add_schema('chinook', 'public', 'public')});
is($pair->sql_target(q{SELECT string_agg(object || ': ' || detail, E'\n') FROM rehome.preflight('chinook') WHERE severity = 'error'}),
	'', 'preflight has no objection');
call(q{CALL rehome.start('chinook')});
ok($pair->wait_for_state('chinook', 'syncing'), 'copied, and in sync');
same_content($pair, \@tables, 'all tables are the same on both sides');
verified($rows, 'verified row by row, each table with all its rows');
is($pair->sql_target(q{SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND convalidated AND connamespace = 'public'::regnamespace}),
	'11', 'the 11 foreign keys are there');

call(q{CALL rehome.cutover('chinook')});
is($pair->sql_target('SELECT state, authority FROM rehome.status'), 'cut_over|target', 'cut over');
for my $table (@tables)
{
	is((sqlstate_of($pair->source, "DELETE FROM $table", 'chinook'))[0], '25006', "the source refuses writes to $table");
}

# A day in the record shop: parents and children come, change and go.
sub day
{
	my ($side, $n) = @_;
	my $run = $side eq 'source' ? sub { $pair->sql_source(@_) } : sub { $pair->sql_target(@_) };
	$run->(qq{
		BEGIN;
		INSERT INTO artist VALUES (1000 + $n, 'Artist $n'), (2000 + $n, NULL);
		INSERT INTO album VALUES (1000 + $n, 'Béla''s $n\\ "Best"', 1000 + $n);
		INSERT INTO track SELECT 10000 + 10 * $n + i, 'Track ' || i, 1000 + $n, 1, 1, NULL, 1000 * i, NULL, 0.99 FROM generate_series(1, 3) AS i;
		INSERT INTO playlist VALUES (100 + $n, 'Day $n');
		INSERT INTO playlist_track SELECT 100 + $n, track_id FROM track WHERE album_id = 1000 + $n;
		INSERT INTO employee (employee_id, last_name, first_name, reports_to) VALUES (100 + $n, 'New', 'Employee', 1), (200 + $n, 'Newer', 'Employee', 100 + $n);
		UPDATE customer SET support_rep_id = 200 + $n, company = NULL, email = 'c' || customer_id || '.$n\@example.org' WHERE customer_id % 7 = $n;
		INSERT INTO invoice (invoice_id, customer_id, invoice_date, total) SELECT 1000 + 100 * $n + customer_id, customer_id, '2024-02-29 12:00', 1.98 FROM customer WHERE customer_id <= 10;
		INSERT INTO invoice_line SELECT 10000 + 1000 * $n + invoice_id, invoice_id, 10001 + 10 * $n, 0.99, 2 FROM invoice WHERE invoice_id BETWEEN 1000 + 100 * $n AND 1099 + 100 * $n;
		COMMIT;
		DELETE FROM invoice_line WHERE invoice_id % 50 = $n;
		DELETE FROM invoice WHERE invoice_id % 50 = $n;
		UPDATE genre SET name = name || ' $n' WHERE genre_id % 5 = $n;
		UPDATE track SET unit_price = 1.49 WHERE track_id % 100 = $n;
		DELETE FROM playlist_track WHERE playlist_id = 1 AND track_id % 3 = $n % 3;
		UPDATE playlist_track SET playlist_id = 100 + $n WHERE playlist_id = 8 AND track_id % 10 = $n;
		DELETE FROM artist WHERE artist_id = 2000 + $n;
		DELETE FROM playlist_track WHERE playlist_id = 3 + $n;
		DELETE FROM playlist WHERE playlist_id = 3 + $n;});
	return;
}

my $seen = q{SELECT (SELECT count(*) FROM track WHERE album_id > 1000), (SELECT count(*) FROM invoice_line WHERE invoice_id > 1000),
	(SELECT count(*) FROM playlist WHERE playlist_id IN (4, 5))};
day('target', 1);
is($pair->sql_target($seen), '3|9|1', 'a day of writes at the target');
call(q{CALL rehome.rollback('chinook')});
ok($pair->wait_for_state('chinook', 'syncing'), 'rolled back');
is($pair->sql_source($seen), '3|9|1', 'the writes are present at the source');
same_content($pair, \@tables, 'all of them: the tables are the same on both sides');
is((sqlstate_of($pair->target, 'DELETE FROM genre', 'chinook'))[0], '25006', 'the target refuses writes');

day('source', 2);
is($pair->sql_source($seen), '6|17|0', 'a day of writes at the source');
verified($pair->sql_source("SELECT * FROM ($count) AS c ORDER BY name"), 'verify brings them over and finds all rows the same');
call(q{CALL rehome.cutover('chinook')});
is($pair->sql_target('SELECT state, authority FROM rehome.status'), 'cut_over|target', 'cut over again');
is($pair->sql_target($seen), '6|17|0', 'with the writes of both days');
day('target', 3);
call(q{CALL rehome.complete('chinook')});
is($pair->sql_target('SELECT state, authority FROM rehome.status'), 'completed|target', 'completed');
same_content($pair, \@tables, 'the last day was brought back before');
is((sqlstate_of($pair->source, 'DELETE FROM genre', 'chinook'))[0], '25006', 'the source stays closed');
is(schema_dump($pair->target, 'chinook', '-n', 'public'), $before, 'the target has the schema it had before');
$pair->sql_target(q{SELECT rehome.drop_migration('chinook')});
is($pair->sql_target('SELECT count(*) FROM rehome.status'), '0', 'dropped');

done_testing();
