// Compiles every .sol file of a directory with the pinned compiler and prints
// {"<contract>": {"abi": [...], "bytecode": "0x...", "deployedBytecode": "0x..."}}.
//
//   node compile.mjs <directory>
import { readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import solc from 'solc'

const directory = process.argv[2]
if (!directory) {
  console.error('usage: node compile.mjs <directory>')
  process.exit(2)
}

const sources = {}
for (const name of readdirSync(directory).filter((name) => name.endsWith('.sol')).sort()) {
  sources[name] = { content: readFileSync(join(directory, name), 'utf8') }
}

const input = {
  language: 'Solidity',
  sources,
  settings: {
    evmVersion: 'cancun',
    optimizer: { enabled: true, runs: 200 },
    // Without the metadata hash a change of a comment does not change the code.
    metadata: { bytecodeHash: 'none' },
    outputSelection: { '*': { '*': ['abi', 'evm.bytecode.object', 'evm.deployedBytecode.object'] } },
  },
}

// Every source is in the input, so there is nothing left to import.
const output = JSON.parse(solc.compile(JSON.stringify(input)))
const errors = (output.errors ?? []).filter((error) => error.severity === 'error')
if (errors.length > 0) {
  for (const error of errors) console.error(error.formattedMessage)
  process.exit(1)
}

const compiled = {}
for (const file of Object.values(output.contracts)) {
  for (const [name, contract] of Object.entries(file)) {
    if (name in compiled) {
      console.error(`two contracts are called ${name}`)
      process.exit(1)
    }
    compiled[name] = {
      abi: contract.abi,
      bytecode: '0x' + contract.evm.bytecode.object,
      deployedBytecode: '0x' + contract.evm.deployedBytecode.object,
    }
  }
}
process.stdout.write(JSON.stringify(compiled))
