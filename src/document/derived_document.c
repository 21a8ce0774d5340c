/*-------------------------------------------------------------------------
 *
 * derived_document.c
 *	  Derived data in the mapping document.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "document/document.h"
#include "document/sql/derived_document.sql.h"
#include "util/name.h"
#include "util/spi.h"

/* Columns of derived_document.sql. */
enum
{
	DER_SLICE, DER_TARGET, DER_FIELD, DER_TYPE, DER_INPUTS, DER_QUERY, DER_OWNER, DER_WRITE_BACK, DER_NOTE,
	DER_NAME, DER_KEY, DER_WHOLE, DER_IN_KEY
};

/*
 * rehome_derived_rows puts a row of rehome.mapping_document() for each column
 * that is derived.
 */
void
rehome_derived_rows(RehomeMigration *migration, RehomeSink *sink)
{
	RehomeRows *rows = rehome_spi(sql_derived_document, "i", migration->id);

	for (int i = 0; i < rows->n; i++)
	{
		char	  **v = rows->value[i];
		char	   *values[13] = {0};

		values[0] = v[DER_SLICE];
		values[1] = rehome_relation_name((Oid) rehome_int64(v[DER_TARGET]));
		values[2] = v[DER_FIELD];
		values[3] = v[DER_TYPE];
		values[4] = v[DER_INPUTS];
		values[6] = "derived";
		values[7] = v[DER_QUERY];
		values[8] = v[DER_OWNER];
		values[11] = v[DER_WRITE_BACK];
		values[12] = v[DER_NOTE];
		rehome_sink_put(sink, values);
	}
}

/*
 * append_inputs lists what a derivation reads, and what changes of it affect.
 */
static void
append_inputs(StringInfo text, RehomeMigration *migration, const char *name)
{
	RehomeRows *rows;

	rows = rehome_spi("SELECT i.input, i.affected FROM rehome.derivation_input i JOIN rehome.derivation d ON d.id = i.derivation_id"
					  " WHERE d.migration_id = $1 AND d.name = $2::name ORDER BY i.input::text", "it", migration->id, name);
	appendStringInfoString(text, "\n| input | a change of row `t` affects |\n| --- | --- |\n");
	for (int i = 0; i < rows->n; i++)
	{
		appendStringInfo(text, "| %s | ", rows->value[i][0]);
		if (rows->value[i][1] != NULL)
			rehome_markdown_code(text, rows->value[i][1]);
		else
			appendStringInfoString(text, "everything");
		appendStringInfoString(text, " |\n");
	}
}

/*
 * rehome_derived_markdown appends a section for each derivation.
 */
void
rehome_derived_markdown(StringInfo text, RehomeMigration *migration)
{
	RehomeRows *rows = rehome_spi(sql_derived_document, "i", migration->id);

	for (int i = 0; i < rows->n; i++)
	{
		char	  **v = rows->value[i];
		bool		first = i == 0 || strcmp(rows->value[i - 1][DER_NAME], v[DER_NAME]) != 0;
		bool		last = i + 1 == rows->n || strcmp(rows->value[i + 1][DER_NAME], v[DER_NAME]) != 0;

		if (first)
		{
			appendStringInfo(text, "\n### %s ← derived: %s\n\nSlice %s, %s by key %s",
							 rehome_relation_name((Oid) rehome_int64(v[DER_TARGET])), v[DER_NAME], v[DER_SLICE],
							 rehome_bool(v[DER_WHOLE]) ? "rows" : "columns", v[DER_KEY]);
			if (v[DER_WRITE_BACK] != NULL)
				appendStringInfo(text, "; writes after the cutover are carried back by %s", v[DER_WRITE_BACK]);
			appendStringInfoString(text, ". ");
			if (v[DER_NOTE] != NULL)
			{
				rehome_markdown_cell(text, v[DER_NOTE]);
				appendStringInfoChar(text, '.');
			}
			appendStringInfo(text, "\n\n```sql\n%s\n```\n\n| target field | type |\n| --- | --- |\n", v[DER_QUERY]);
		}
		appendStringInfoString(text, "| ");
		rehome_markdown_code(text, v[DER_FIELD]);
		appendStringInfo(text, " | %s |\n", v[DER_TYPE]);
		if (last)
			append_inputs(text, migration, v[DER_NAME]);
	}
}
