# Chinook, and whether it can be trusted: checks are suggested and adopted; a
# rule that is wrong on purpose passes every verification, and fails the
# business check; queries of the application are run on both sides, one of them
# without its index here; and the cutover refuses with all of it at once. Then
# it is done right.
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

my $sql = slurp_file($file) =~ s/^(?:DROP|CREATE) DATABASE .*;\s*$//gmr =~ s/^\\c .*$//gmr;
my ($schema) = $sql =~ /\A(.*?)^INSERT INTO /ms;
ok(defined $schema, 'the file has its schema first');

my $pair = new_pair(
	dbname      => 'chinook',
	role        => 1,
	source_conf => "shared_preload_libraries = 'pg_stat_statements'");
$pair->sql_source($sql);
$pair->sql_target($schema);
$pair->grant_source('public');
$pair->sql_source('CREATE EXTENSION pg_stat_statements; GRANT pg_read_all_stats TO rehome_src; ANALYZE');

# What the record shop asks all day.
my %query = (
	'top artists' => q{SELECT ar.name, sum(il.quantity * il.unit_price) AS revenue FROM artist ar JOIN album al USING (artist_id)
		JOIN track t USING (album_id) JOIN invoice_line il USING (track_id) GROUP BY ar.artist_id ORDER BY revenue DESC, ar.name LIMIT 10},
	'sales by country' => q{SELECT billing_country, count(*), sum(total) FROM invoice GROUP BY 1},
	'sales by agent' => q{SELECT e.last_name, sum(i.total) FROM employee e JOIN customer c ON c.support_rep_id = e.employee_id
		JOIN invoice i USING (customer_id) GROUP BY e.employee_id},
	'customers without a purchase' => q{SELECT customer_id FROM customer c WHERE NOT EXISTS (SELECT FROM invoice i WHERE i.customer_id = c.customer_id)},
	'longest tracks' => q{SELECT name, milliseconds FROM track ORDER BY milliseconds DESC, track_id LIMIT 20},
	'genres' => q{SELECT g.name, count(*) FROM genre g JOIN track USING (genre_id) GROUP BY g.genre_id},
	'playlists' => q{SELECT p.playlist_id, p.name, count(pt.track_id) FROM playlist p LEFT JOIN playlist_track pt USING (playlist_id) GROUP BY p.playlist_id},
	'by media type' => q{SELECT m.name, avg(t.bytes)::bigint FROM media_type m JOIN track t USING (media_type_id) GROUP BY m.media_type_id},
	'reports to' => q{WITH RECURSIVE chain AS (SELECT employee_id, last_name, 0 AS depth FROM employee WHERE reports_to IS NULL
		UNION ALL SELECT e.employee_id, e.last_name, depth + 1 FROM employee e JOIN chain c ON e.reports_to = c.employee_id) SELECT * FROM chain},
	'running total' => q{SELECT invoice_id, sum(total) OVER (ORDER BY invoice_date, invoice_id) FROM invoice},
	'best month' => q{SELECT date_trunc('month', invoice_date) AS month, sum(total) FROM invoice GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 1},
	'times sold' => q{SELECT t.track_id, (SELECT count(*) FROM invoice_line l WHERE l.track_id = t.track_id) AS sold FROM track t});
cmp_ok(scalar keys %query, '>=', 10, 'at least ten queries');
$pair->sql_source("$_;") for values %query;

sub call { my ($sql) = @_; return $pair->sql_target($sql, timeout => $PostgreSQL::Test::Utils::timeout_default) }

# Defines the migration; with a rule for the total of an invoice, by that.
sub define
{
	my ($rule) = @_;
	$pair->sql_target(q{
		SELECT rehome.create_migration('chinook', 'src', 'the record shop moves');
		SELECT rehome.add_schema('chinook', 'public', 'public')});
	$pair->sql_target("SELECT rehome.map_column('chinook', 'invoice', 'total', '$rule', inverse => 'total')") if defined $rule;
	$pair->sql_target(sprintf q{SELECT rehome.add_query('chinook', '%s', $query$%s$query$, noise => %d)}, $_, $query{$_}, $_ eq 'times sold' ? 5 : 1000)
	  for sort keys %query;
	$pair->sql_target(q{
		SELECT rehome.set_criterion('chinook', 'correctness', '=', 100);
		SELECT rehome.set_criterion('chinook', 'discrepancies', '=', 0);
		SELECT rehome.set_criterion('chinook', 'checks_failing', '=', 0, owner => 'accounting');
		SELECT rehome.set_criterion('chinook', 'queries_different', '=', 0);
		SELECT rehome.set_criterion('chinook', 'queries_slower', '=', 0);
		SELECT rehome.set_criterion('chinook', 'freeze_limit', '<=', 10);
		SELECT rehome.set_criterion('chinook', 'query_latency_ratio', '<', 0.000001, blocking => false)});
	return;
}

define('round(total)');

# Suggestions.
my (undef, $suggested, $notices) = $pair->target->psql('chinook', q{SELECT kind, name FROM rehome.suggest_checks('chinook')});
my ($skipped) = $notices =~ /NOTICE:  (\d+) queries of the source were skipped: their values are parameters/;
cmp_ok($skipped // 0, '>=', 4, 'queries without their values are skipped, and counted');
like($notices, qr/^(?:DETAIL:  )?\d+ ms in \d+ calls: .*\$1/m, 'the most expensive of them are shown');
is(scalar(() = $notices =~ /ms in \d+ calls/g), $skipped < 5 ? $skipped : 5, 'no more than five');
like($notices, qr/^HINT:  With values put in: SELECT rehome\.add_query\('chinook'/m, 'with what to do');
unlike($notices, qr/may not read/, 'all could be read');
$pair->sql_source('REVOKE pg_read_all_stats FROM rehome_src');
(undef, undef, $notices) = $pair->target->psql('chinook', q{SELECT kind, name FROM rehome.suggest_checks('chinook')});
like($notices, qr/NOTICE:  \d+ statements in pg_stat_statements of the source were skipped: the connecting role may not read their text/, 'what may not be read is told');
$pair->sql_source('GRANT pg_read_all_stats TO rehome_src');
like($suggested, qr/^check\|public\.invoice: totals by month$/m, 'totals by month are suggested');
like($suggested, qr/^check\|public\.invoice: first and last$/m, 'and how far times reach');
like($suggested, qr/^check\|public\.invoice: by billing_country$/m, 'how often a value occurs');
like($suggested, qr/^check\|public\.invoice_line: parents by track_id$/m, 'that children have parents');
like($suggested, qr/^check\|public\.playlist_track: unique playlist_id, track_id$/m, 'that keys are unique');
like($suggested, qr/^query\|query [0-9a-f]{8}$/m, 'and the most expensive queries of the source');
like($pair->sql_target(q{SELECT source_sql FROM rehome.check_suggestion WHERE name = 'public.invoice: totals by month'}),
	qr/sum\(total\) AS total FROM public\.invoice AS source/, 'of what the source has, not of what the rule makes of it');
is($pair->sql_target(q{SELECT string_agg(source_sql, E'\n') FROM rehome.check_suggestion WHERE kind = 'query' AND source_sql ~ '\$[0-9]'}), '',
	'a query without its values is none to run');
my ($n) = $pair->sql_target(q{SELECT count(*) FROM rehome.check_suggestion});
is((sqlstate_of($pair->target, q{SELECT rehome.adopt_checks('chinook', '{no such}')}, 'chinook'))[0], '42704', 'only what was suggested can be adopted');
is($pair->sql_target(q{SELECT rehome.adopt_checks('chinook')}), $n, 'all are adopted');
is($pair->sql_target(q{SELECT rehome.adopt_checks('chinook')}), 0, 'once');
# Ours are the same queries, by names to tell them apart.
my $forget = q{SELECT rehome.drop_query('chinook', query) FROM rehome.query_status WHERE query LIKE 'query %'};
$pair->sql_target($forget);

# Verification takes the rules for the truth.
call(q{CALL rehome.copy('chinook')});
is($pair->sql_target(q{SELECT count(*), bool_and(ok) FROM rehome.verify('chinook', mode => 'count')}), '11|t', 'all counts are equal');
is($pair->sql_target(q{SELECT count(*), bool_and(ok) FROM rehome.verify('chinook', mode => 'rows')}), '11|t', 'all rows are what the rules make of them');
my ($state, $message, $detail) = sqlstate_of($pair->target, q{CALL rehome.cutover('chinook')}, 'chinook');
is($state, 'RH003', 'what is not measured has not passed');
like($detail, qr/^Criterion queries_slower = 0: unmeasured/m, 'and says so');
like($detail, qr/^Criterion checks_failing = 0: failed, it is \d+ \(.*not run/m, 'nor have checks that did not run');

# The business check does not.
my $months = $pair->sql_source(q{SELECT count(*) FROM
	(SELECT FROM invoice GROUP BY date_trunc('month', invoice_date) HAVING sum(total) <> sum(round(total))) AS m});
cmp_ok($months, '>', 0, "the rule makes a difference in $months months");
is($pair->sql_target(q{SELECT "check", status, differences FROM rehome.run_checks('chinook') WHERE status <> 'passed'}),
	"public.invoice: totals by month|failed|$months", 'the totals of these months differ, and nothing else');
like($pair->sql_target(q{SELECT evidence->0->'columns' FROM rehome.check_status WHERE "check" = 'public.invoice: totals by month'}),
	qr/^\["total"\]$/, 'in the column whose rule is wrong');

# A missing index shows in the time of a query, and in nothing else.
my $index = $pair->sql_target(q{SELECT i.indexrelid::regclass FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
	WHERE i.indrelid = 'invoice_line'::regclass AND a.attname = 'track_id'});
my $definition = $pair->sql_target("SELECT pg_get_indexdef('$index'::regclass)");
$pair->sql_target("DROP INDEX $index");
my @ran = split /\n/, $pair->sql_target(q{SELECT query, status, slower, rows_different FROM rehome.run_queries('chinook') ORDER BY query});
my %ran = map { my ($name, @rest) = split /\|/; $name => join '|', @rest } @ran;
my @totals = grep { $query{$_} && $query{$_} =~ /\btotal\b/ } sort keys %query;
is($ran{$_}, 'equal|f|0', "$_: equal, and as fast") for grep { my $name = $_; $name ne 'times sold' && !grep { $_ eq $name } @totals } sort keys %query;
is($ran{'times sold'}, 'equal|t|0', 'times sold: equal, and slower');
like($ran{$_}, qr/^different\|f\|[1-9]/, "$_: different, by the same rule") for @totals;
my $ratio = $pair->sql_target(q{SELECT ratio FROM rehome.query_status WHERE query = 'times sold'});
cmp_ok($ratio, '>', 2, "it takes $ratio times as long");
like($pair->sql_target(q{SELECT evidence->'target_plan' FROM rehome.query_status WHERE query = 'times sold'}),
	qr/"Seq Scan", .*"Relation Name": "invoice_line"|"Relation Name": "invoice_line".*"Seq Scan"/s, 'and the plan tells why');

($state, $message, $detail) = sqlstate_of($pair->target, q{CALL rehome.cutover('chinook')}, 'chinook');
is($state, 'RH003', 'the cutover is refused');
like($detail, qr/^Criterion checks_failing = 0: failed, it is 1 \(public\.invoice: totals by month: failed, /m, 'for the check');
like($detail, qr/^Criterion queries_slower = 0: failed, it is 1 \(times sold: /m, 'for the slow query');
like($detail, qr/^Criterion queries_different = 0: failed, /m, 'and for the queries that differ, all at once');
unlike($detail, qr/correctness|freeze_limit|query_latency_ratio/, 'and for nothing that passed, or does not block');
is($pair->sql_target(q{SELECT state FROM rehome.status}), 'syncing', 'nothing has changed');

# Done right.
call(q{CALL rehome.cancel('chinook')});
$pair->sql_target(q{SELECT rehome.drop_migration('chinook')});
$pair->sql_target($definition);
$pair->sql_target(sprintf 'TRUNCATE %s', $pair->sql_target(q{SELECT string_agg(oid::regclass::text, ', ') FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'}));
define();
$pair->sql_target(q{SELECT name FROM rehome.suggest_checks('chinook')});
$pair->sql_target(q{SELECT rehome.adopt_checks('chinook')});
$pair->sql_target($forget);
call(q{CALL rehome.copy('chinook')});
is($pair->sql_target(q{SELECT count(*) FROM rehome.verify('chinook') WHERE NOT ok}), '0', 'verified');
is($pair->sql_target(q{SELECT "check", status, message FROM rehome.run_checks('chinook') WHERE status <> 'passed'}), '', 'every check passes');
is($pair->sql_target(q{SELECT query, status, message FROM rehome.run_queries('chinook') WHERE status <> 'equal' OR slower}), '',
	'every query gives the same');
is($pair->sql_target(q{SELECT metric, value FROM rehome.scorecard('chinook') WHERE verdict <> 'passed' AND blocking}), '', 'every criterion is met');
call(q{CALL rehome.cutover('chinook')});
is($pair->sql_target(q{SELECT state FROM rehome.status}), 'cut_over', 'cut over');

done_testing();
