// query.mjs SQL: prints the answer's rows as JSON.
import { DuckDBInstance } from '@duckdb/node-api'

const connection = await (await DuckDBInstance.create(':memory:')).connect()
const answer = await connection.runAndReadAll(process.argv[2])
console.log(JSON.stringify(answer.getRowsJson()))
