# The Chinook database moved into a schema of other names and types: the rules are
# suggested, adopted, tried on the rows, documented, exported, imported in another
# database, and run; and the log tells by which rules each step was done.
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

my $sql  = slurp_file($file) =~ s/^(?:DROP|CREATE) DATABASE .*;\s*$//gmr =~ s/^\\c .*$//gmr;
my $pair = new_pair(dbname => 'chinook');
$pair->sql_source($sql);
$pair->import_foreign_schema('public', 'far');

sub call { my ($sql) = @_; return $pair->sql_target($sql, timeout => $PostgreSQL::Test::Utils::timeout_default) }

# The new schema: the same tables under names like "TblInvoiceLine", columns like
# "UnitPrice"; wider keys, text for varchar, timestamps with time zone. Keys and
# foreign keys are those of the source.
my $camel = q{replace(initcap(replace(%s, '_', ' ')), ' ', '')};
my ($table_name, $column_name) = (q{'Tbl' || } . sprintf($camel, 'c.relname'), sprintf($camel, 'a.attname'));
my $ddl = $pair->sql_source(qq{
	SELECT format('CREATE TABLE shop.%I (%s, PRIMARY KEY (%s));', $table_name,
	              string_agg(format('%I %s%s', $column_name,
	                                CASE format_type(a.atttypid, NULL) WHEN 'integer' THEN 'bigint' WHEN 'character varying' THEN 'text'
	                                     WHEN 'timestamp without time zone' THEN 'timestamptz' ELSE format_type(a.atttypid, a.atttypmod) END,
	                                CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END), ', ' ORDER BY a.attnum),
	              string_agg(quote_ident($column_name), ', ' ORDER BY array_position(i.indkey::int2[], a.attnum))
	                FILTER (WHERE a.attnum = ANY (i.indkey)))
	  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
	  JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
	 WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
	 GROUP BY c.oid, c.relname ORDER BY c.relname});
my $keys = $pair->sql_source(q{
	SELECT format('ALTER TABLE shop.%I ADD FOREIGN KEY (%I) REFERENCES shop.%I;', }
	  . join(', ', q{'Tbl' || } . sprintf($camel, 'c.conrelid::regclass::text'), sprintf($camel, 'a.attname'), q{'Tbl' || } . sprintf($camel, 'c.confrelid::regclass::text')) . q{)
	  FROM pg_constraint c JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
	 WHERE c.contype = 'f' AND c.connamespace = 'public'::regnamespace ORDER BY 1});
$pair->sql_target("CREATE SCHEMA shop; $ddl; $keys");
is(scalar(split /\n/, $ddl), 11, 'eleven tables with new names');
$pair->sql_target(q{SELECT rehome.create_migration('m', 'src', 'the record shop gets a schema of its own')});

# ---------------------------------------------------------------------------
# Suggestions: all of it is found again.

my $same = q{replace(lower(regexp_replace(target_table::text, '^shop\."?Tbl|"$', '', 'g')), '_', '')};
is($pair->sql_target(qq{SELECT count(*), count(*) FILTER (WHERE $same = replace(regexp_replace(source_table::text, '^far\\.', ''), '_', '')),
		min(confidence) > 0.8 FROM rehome.suggest_mapping('m', 'far', 'shop') WHERE kind = 'table'}),
	'11|11|t', 'every table is suggested for its own successor, with confidence');
my $columns = $pair->sql_source(q{SELECT count(*) FROM pg_attribute WHERE attrelid IN (SELECT oid FROM pg_class
	WHERE relnamespace = 'public'::regnamespace AND relkind = 'r') AND attnum > 0 AND NOT attisdropped});
is($pair->sql_target(q{SELECT count(*), count(*) FILTER (WHERE lower(target_column) = replace(source_column, '_', ''))
	FROM rehome.suggest_mapping('m', 'far', 'shop') WHERE kind = 'column'}),
	"$columns|$columns", 'and every column, since all have another name');

$pair->sql_target($pair->sql_target(q{SELECT sql FROM rehome.suggest_mapping('m', 'far', 'shop') WHERE kind = 'table'}));
is($pair->sql_target(q{SELECT count(*) FROM rehome.suggest_mapping('m', 'far', 'shop')}), '0', 'adopted, nothing is left to suggest');

# ---------------------------------------------------------------------------
# Lints.

is($pair->sql_target(q{SELECT count(*) FROM rehome.lint_mapping('m', sample => NULL) WHERE severity = 'error'}),
	'0', 'no row of the source is refused or loses anything');
is($pair->sql_target(q{SELECT DISTINCT lint, "column" FROM rehome.lint_mapping('m', sample => 0) WHERE severity <> 'info' ORDER BY 1, 2}),
	"time zone|BirthDate\ntime zone|HireDate\ntime zone|InvoiceDate", 'what depends on a time zone is warned of');
$pair->sql_target(q{
	ALTER TABLE shop."TblMediaType" ALTER "Name" TYPE varchar(20);
	ALTER TABLE shop."TblInvoice" ALTER "Total" TYPE numeric(10, 1);
	ALTER TABLE shop."TblCustomer" ALTER "Company" SET NOT NULL;
	CREATE UNIQUE INDEX ON shop."TblCustomer" (upper("City"))});
$pair->sql_source(q{
	UPDATE customer SET city = lower(city) WHERE customer_id = 2;
	UPDATE customer SET city = 'STUTTGART' WHERE customer_id = 3;
	ALTER TABLE invoice_line DROP CONSTRAINT invoice_line_track_id_fkey;
	INSERT INTO invoice_line VALUES (5000, 1, 9999, 0.99, 1)});
my $long = $pair->sql_source(q{SELECT string_agg('{"media_type_id": ' || media_type_id || '}', ',' ORDER BY media_type_id) FROM media_type WHERE length(name) > 20});
is($pair->sql_target(q{SELECT string_agg(key::text, ',' ORDER BY (key ->> 'media_type_id')::int) FROM rehome.lint_mapping('m') WHERE lint = 'narrowing' AND severity = 'error'}),
	$long, 'names that do not fit any more, by their keys');
is($pair->sql_target(q{SELECT count(*) FROM rehome.lint_mapping('m') WHERE lint = 'null' AND "column" = 'Company'}),
	$pair->sql_source('SELECT count(*) FROM customer WHERE company IS NULL'), 'every customer without a company');
is($pair->sql_target(q{SELECT count(*) FROM rehome.lint_mapping('m') WHERE lint = 'precision' AND severity = 'error' AND "column" = 'Total'}),
	$pair->sql_source('SELECT count(*) FROM invoice WHERE total <> round(total, 1)'), 'every total that is rounded');
like($pair->sql_target(q{SELECT string_agg(key::text, ',' ORDER BY key) FROM rehome.lint_mapping('m') WHERE lint = 'case or collation'}),
	qr/"customer_id": 2.*"customer_id": 3/, 'cities that differ by case');
is($pair->sql_target(q{SELECT object, key, detail FROM rehome.lint_mapping('m') WHERE lint = 'orphan'}),
	qq{shop."TblInvoiceLine"|{"invoice_line_id": 5000}|TblInvoiceLine_TrackId_fkey: there is no shop."TblTrack" with (9999)}, 'a line of a track that is not there');
my $guarded = $pair->sql_source(q{SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal});
is($guarded, '0', 'nothing was done to the source');
$pair->sql_source('DELETE FROM invoice_line WHERE invoice_line_id = 5000');
$pair->sql_target(q{
	DROP INDEX shop."TblCustomer_upper_idx";
	SELECT rehome.map_column('m', 'shop."TblMediaType"', 'Name', 'left(name, 20)', note => 'the shop''s signs are short');
	SELECT rehome.map_column('m', 'shop."TblInvoice"', 'Total', 'round(total, 1)');
	SELECT rehome.map_column('m', 'shop."TblCustomer"', 'Company', $$coalesce(company, 'none')$$, inverse => $$nullif("Company", 'none')$$)});
is($pair->sql_target(q{SELECT count(*) FROM rehome.lint_mapping('m', sample => NULL) WHERE severity = 'error'}),
	'0', 'with rules for them, nothing is wrong');

# ---------------------------------------------------------------------------
# The document, and the definition.

is($pair->sql_target(q{SELECT count(*), count(*) FILTER (WHERE cardinality(source_fields) > 0) FROM rehome.mapping_document('m')}),
	"$columns|$columns", 'the document has every column, and what it comes from');
is($pair->sql_target(q{SELECT source, source_fields, kind, transformation, inverse FROM rehome.mapping_document('m') WHERE target_field = 'Company' AND kind <> 'copy'}),
	q{public.customer|{company}|expression|COALESCE(company, 'none'::character varying)|company = NULLIF("Company", 'none'::text)}, 'a rule as a reader wants it');
my $markdown = $pair->sql_target(q{SELECT rehome.mapping_document_markdown('m')});
is(scalar(() = $markdown =~ /^### /mg), 11, 'as Markdown, a section for each table');
like($markdown, qr/^\| `name` \| `Name` \| character varying\(20\) \| expression: `"left"\(\(?.*`.* \| the shop's signs are short \|$/m, 'with the rule and its note');

$pair->sql_target(q{
	SELECT rehome.add_check('m', 'tracks', 'business', 'SELECT count(*) FROM public.track', 'SELECT count(*) FROM shop."TblTrack"', description => 'none is lost');
	SELECT rehome.add_query('m', 'longest', 'SELECT max(milliseconds) FROM public.track', 'SELECT max("Milliseconds") FROM shop."TblTrack"', factor => 3);
	SELECT rehome.set_schedule('m', '1 day');
	SELECT rehome.set_criterion('m', 'check.tracks', '=', 1, max_age => '7 days', blocking => false)});
my $definition = $pair->sql_target(q{SELECT rehome.export_migration('m')});
like($definition, qr/"checks": .*"queries": .*"criteria": /s, 'with checks, queries and criteria');
my $hash       = $pair->sql_target(q{SELECT rehome.definition_hash('m')});
$pair->target->safe_psql('postgres', 'CREATE DATABASE again TEMPLATE chinook');
my $again = sub { return $pair->target->safe_psql('again', $_[0]) };
$again->(q{SELECT rehome.drop_migration('m')});
(my $quoted = $definition) =~ s/'/''/g;
$again->(qq{SELECT rehome.import_migration('$quoted')});
is($again->(q{SELECT rehome.export_migration('m')}), $definition, 'imported in another database and exported, it is the same');
is($again->(q{SELECT rehome.definition_hash('m')}), $hash, 'with the same hash');
is($again->(q{SELECT count(*) FROM rehome.lint_mapping('m') WHERE severity = 'error'}), '0', 'and the rules work there');

# ---------------------------------------------------------------------------
# Run: the log has the hash of the rules.

call(q{CALL rehome.start('m')});
ok($pair->wait_for_state('m', 'syncing'), 'copied, and in sync');
is($pair->sql_target(q{SELECT count(*) FROM rehome.verify('m', mode => 'rows') WHERE ok}), '11', 'verified row by row');
call(q{CALL rehome.cutover('m', one_way => true)});
is($pair->sql_target(q{SELECT state FROM rehome.status}), 'cut_over', 'cut over');
is($pair->sql_target(q{SELECT string_agg(DISTINCT kind, ',' ORDER BY kind) FROM rehome.event
	WHERE migration = 'm' AND detail ->> 'rules' = '} . $hash . q{'}), 'copied,copy,cutover,verified', 'each step tells the rules it was done by');
is($pair->sql_target(q{SELECT count(*) FROM rehome.event WHERE migration = 'm' AND detail ? 'rules' AND detail ->> 'rules' <> '} . $hash . q{'}), '0', 'no other rules');

done_testing();
